"""Whether a checkpoint can be resumed under a configuration, and what the changes mean. Pure.

Every rule follows from the roles of the fields (:mod:`unipool_dist.config.roles`).
"""

from __future__ import annotations

from unipool_dist.checkpoint.progress import DataIdentity
from unipool_dist.config import Config
from unipool_dist.config.roles import Role, differing, flat, role_of, settings_of
from unipool_dist.errors import CheckpointError

_BIAS = "pool.balance.bias_rate"
"""Whether it is 0 decides whether routers have a bias."""


def check_compatible(saved: Config, saved_data: DataIdentity, now: Config, now_data: DataIdentity) -> list[str]:
    """Return one line for each change that is possible but alters the training from here on.

    Both configurations are resolved. A checkpoint that knows no corpus, made from an exported model, only has to agree
    in shape and tokenizer.

    Raises:
        CheckpointError: the model's shape, tokenizer or data differ; all differing fields are named.
    """
    begins = saved_data.content_hash is None
    refused = shape_differences(saved, now) + ([] if begins else _refused(saved, now, Role.FIXED))
    if saved_data.tokenizer_hash is not None and saved_data.tokenizer_hash != now_data.tokenizer_hash:
        refused.append(f"tokenizer of data.path={now.data.path}: another one than the checkpoint's")
    elif not begins and saved_data.content_hash != now_data.content_hash:
        refused.append(f"corpus at data.path={now.data.path}: other tokens than the checkpoint's run was trained on")
    if not begins and saved.optimizer.name == "sgd" and (saved.optimizer.momentum > 0) != (now.optimizer.momentum > 0):
        refused.append(_line("optimizer.momentum", saved.optimizer.momentum, now.optimizer.momentum))
    if refused:
        raise CheckpointError(
            "this run cannot be resumed from the checkpoint, because these differ:\n  "
            + "\n  ".join(refused)
            + "\nSet them back, or start a new run in another run.dir"
        )
    if begins:
        return []
    before, after = flat(saved), flat(now)
    return [
        f"{name}: {before[name]} until now, {after[name]} from here on"
        for name in differing(before, after, _names(Role.RUN))
    ]


def shape_differences(saved: Config, now: Config) -> list[str]:
    """Return one line for each field in which the models of two resolved configurations differ."""
    differences = _refused(saved, now, Role.SHAPE)
    before, after = saved.pool.balance.bias_rate, now.pool.balance.bias_rate
    if (before > 0) != (after > 0):
        differences.append(_line(_BIAS, before, after))
    return differences


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


def _refused(saved: Config, now: Config, role: Role) -> list[str]:
    before, after = flat(saved), flat(now)
    return [_line(name, before[name], after[name]) for name in differing(before, after, _names(role))]


def _line(name: str, before: object, after: object) -> str:
    return f"{name}: {before} in the checkpoint, {after} now"


def _names(*roles: Role) -> list[str]:
    return [name for name, field in settings_of(Config).items() if role_of(field) in roles]
