"""Whether a checkpoint can be resumed under a configuration, and what the changes mean. Pure.

Every rule follows from the roles of the fields (:mod:`unipool_dist.config.roles`).
"""

from __future__ import annotations

from collections.abc import Collection

from unipool_dist.checkpoint.progress import DataIdentity
from unipool_dist.config import Config
from unipool_dist.config.roles import Role, differing, flat, role_of, settings_of
from unipool_dist.config.staging import DECIDE_ORDER, STAGE_FIELDS, config_at
from unipool_dist.errors import CheckpointError

_BIAS = "pool.balance.bias_rate"
"""Whether it is 0 decides whether routers have a bias."""
_TOKENIZER, _CORPUS = "tokenizer", "data.path"
"""What is in a corpus; the directory that it is in may change at any time."""
ALLOWED = (*DECIDE_ORDER, _CORPUS)
"""Fields that a resume may be allowed to change."""


def check_compatible(
    saved: Config,
    saved_data: DataIdentity,
    now: Config,
    now_data: DataIdentity,
    *,
    step: int = 0,
    allowed: Collection[str] = (),
) -> list[str]:
    """Return one line for each change that is possible but alters the training from here on.

    Both configurations are resolved; compared is what they say of ``step``, the checkpoint's, and of its data. What is
    planned for later steps may differ, which is reported. A checkpoint that knows no corpus, made from an exported
    model, only has to agree in shape and tokenizer.

    Args:
        allowed: fields that are reported instead of refused if they differ; some of those that ``stages`` may change.

    Raises:
        CheckpointError: the model's shape, tokenizer or data differ; all differing fields are named, with a way out.
    """
    begins = saved_data.content_hash is None
    before, after = config_at(saved, step), config_at(now, step)
    lines = _differing(before, after, Role.SHAPE) | _bias_difference(before, after)
    if begins:
        lines = {name: line for name, line in lines.items() if name not in STAGE_FIELDS}
    else:
        lines |= _differing(before, after, Role.FIXED) | _momentum_difference(before, after)
    if saved_data.tokenizer_hash is not None and saved_data.tokenizer_hash != now_data.tokenizer_hash:
        lines[_TOKENIZER] = f"tokenizer of {_CORPUS}={after.data.path}: another one than the checkpoint's"
    elif not begins and saved_data.content_hash != now_data.content_hash:
        lines[_CORPUS] = f"corpus at {_CORPUS}={after.data.path}: other tokens than the checkpoint's run was trained on"
    refused = {name: line for name, line in lines.items() if name not in allowed}
    if refused:
        raise CheckpointError(
            "this run cannot be resumed from the checkpoint, because these differ:\n  "
            + "\n  ".join(refused.values())
            + f"\nSet them back, or {_way_out(refused, step)}"
        )
    return [] if begins else [*(f"{line} and from here on" for line in lines.values()), *_told(saved, now, step)]


def _told(saved: Config, now: Config, step: int) -> list[str]:
    """Return a line for each difference that is reported; of stages, those that are still to come."""
    before, after = (flat(config_at(config, step)) for config in (saved, now))
    before["stages"], after["stages"] = (
        [change.model_dump() for change in config.stages if change.from_step > step] for config in (saved, now)
    )
    return [
        f"{name}: {before[name]} until now, {after[name]} from here on"
        for name in differing(before, after, _names(Role.RUN))
    ]


def _way_out(refused: Collection[str], step: int) -> str:
    """Say how a run can have the fields that a resume is refused for."""
    if all(name in ALLOWED for name in refused):
        flags = " ".join(f"--allow {name}" for name in refused)
        return (
            f"change them from step {step + 1} on, or later, with an entry of stages (docs/stages.md), or now with "
            f"{flags}"
        )
    if any(name in (_TOKENIZER, _BIAS, *_names(Role.SHAPE)) and name not in ALLOWED for name in refused):
        text = "; `unipool-dist data prepare --tokenizer CORPUS` gives a text the tokenizer of another corpus"
        return "start a new run in another run.dir" + (text if _TOKENIZER in refused else "")
    return "begin a new run with the trained weights: `unipool-dist checkpoint import RUN NEW_RUN`"


def shape_differences(saved: Config, now: Config) -> list[str]:
    """Return one line for each field in which the models of two resolved configurations differ."""
    return list((_differing(saved, now, Role.SHAPE) | _bias_difference(saved, now)).values())


def run_differences(begun: Config, now: Config) -> list[str]:
    """Return one line for each field by which two resolved configurations are different runs, from the first step on.

    ``model.vocab_size`` counts only if both have one: it may come from the corpus.
    """
    before, after = flat(begun), flat(now)
    names = _names(*(role for role in Role if role.is_part_of_the_run))
    return [
        f"{name}: {before[name]} in the run, {after[name]} now"
        for name in differing(before, after, names)
        if not (name == "model.vocab_size" and None in (before[name], after[name]))
    ]


def _differing(saved: Config, now: Config, role: Role) -> dict[str, str]:
    """Return by name a line for each field of a role that differs."""
    before, after = flat(saved), flat(now)
    return {name: _line(name, before[name], after[name]) for name in differing(before, after, _names(role))}


def _bias_difference(saved: Config, now: Config) -> dict[str, str]:
    before, after = saved.pool.balance.bias_rate, now.pool.balance.bias_rate
    return {_BIAS: _line(_BIAS, before, after)} if (before > 0) != (after > 0) else {}


def _momentum_difference(saved: Config, now: Config) -> dict[str, str]:
    """Return a line if one of two runs with plain SGD has states and the other has none."""
    before, after = saved.optimizer.momentum, now.optimizer.momentum
    differ = saved.optimizer.name == "sgd" and (before > 0) != (after > 0)
    return {"optimizer.momentum": _line("optimizer.momentum", before, after)} if differ else {}


def _line(name: str, before: object, after: object) -> str:
    return f"{name}: {before} in the checkpoint, {after} now"


def _names(*roles: Role) -> list[str]:
    return [name for name, field in settings_of(Config).items() if role_of(field) in roles]
