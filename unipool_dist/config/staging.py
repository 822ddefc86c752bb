"""The stages of a configuration: what changes at which step, and what is in effect at any step. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

from unipool_dist.base.printable import short
from unipool_dist.config.changes import StageChange
from unipool_dist.config.overrides import apply_field
from unipool_dist.config.roles import flat, may_change_by_stages, role_of, settings_of
from unipool_dist.config.sections import Config
from unipool_dist.config.validation import validated
from unipool_dist.errors import ConfigError

STAGE_FIELDS = tuple(name for name, field in settings_of(Config).items() if may_change_by_stages(field))
"""Fields that an entry of ``stages`` may change."""
DECIDE_ORDER = tuple(name for name in STAGE_FIELDS if role_of(settings_of(Config)[name]).is_refused_on_resume)
"""Those of them that decide which samples a run draws, and that a resume may not change unless it is allowed to."""


def with_stages_checked(config: Config, source: str) -> Config:
    """Return ``config`` with the values of ``stages`` as their fields have them (``1e-3`` as a number).

    Raises:
        ConfigError: steps do not ascend, or a field cannot change between stages or have its value.
    """
    if config.stages and config.stages[0].from_step < 2:
        raise ConfigError(
            f"{source}: stages: from_step={config.stages[0].from_step} must be 2 or more; what holds from "
            f"the first step on is what the sections say"
        )
    for before, after in pairwise(config.stages):
        if after.from_step <= before.from_step:
            raise ConfigError(
                f"{source}: stages: from_step={after.from_step} follows from_step={before.from_step}; put the stages "
                f"in the order of their steps, one for each"
            )
    checked, values = [], config.model_dump(mode="json", exclude={"stages"})
    for change in config.stages:
        where = f"{source}: stages: from_step={change.from_step}"
        unknown = [short(name, 100) for name in change.fields if name not in STAGE_FIELDS]
        if unknown or not change.fields:
            raise ConfigError(
                f"{where}: {', '.join(unknown) or 'nothing'} cannot change between stages; what can, by full name: "
                f"{', '.join(STAGE_FIELDS)}"
            )
        for name, value in change.fields.items():
            apply_field(values, name, value)
        of_stage = flat(validated(values, where))
        checked.append(_change(change.from_step, {name: of_stage[name] for name in change.fields}))
    return config.model_copy(update={"stages": checked}) if checked else config


def refuse_hidden(config: Config, names: Iterable[str]) -> None:
    """Refuse to have set the fields ``names`` of the first stage where a later one changes them, if unknowingly.

    Raises:
        ConfigError: a stage changes one of them, and ``stages`` is not among the names.
    """
    names = list(names)
    for change in config.stages if "stages" not in names else ():
        hidden = [name for name in names if name in change.fields]
        if hidden:
            raise ConfigError(
                f"{hidden[0]} was set, but the stage from step {change.from_step} changes it; set stages too, to "
                f"what is wanted there, or with stages=[] to none"
            )


def stage_configs(config: Config) -> list[tuple[int, Config]]:
    """Return the first step of every stage, 1 for the first, and its configuration, which has no ``stages``."""
    stages = [(1, config.model_copy(update={"stages": []}))]
    for change in config.stages:
        stages.append((change.from_step, with_fields(stages[-1][1], change.fields)))
    return stages


def config_at(config: Config, step: int) -> Config:
    """Return the configuration in effect at ``step``, which has no ``stages``."""
    return [of_stage for first_step, of_stage in stage_configs(config) if first_step <= max(step, 1)][-1]


def corpus_paths(config: Config) -> list[str]:
    """Return the paths of the corpora of all stages, each once."""
    return list(dict.fromkeys(of_stage.data.path for _, of_stage in stage_configs(config)))


def with_corpora_at(config: Config, place: Callable[[str], str]) -> Config:
    """Return the configuration with ``place(path)`` for the path of every corpus."""
    stages = [
        _change(change.from_step, {n: place(v) if n == "data.path" else v for n, v in change.fields.items()})
        for change in config.stages
    ]
    moved = config.data.model_copy(update={"path": place(config.data.path)})
    return config.model_copy(update={"data": moved, "stages": stages})


def with_fields(config: Config, fields: Mapping[str, Any]) -> Config:
    """Return ``config`` with other values, already checked, of fields in sections of the first level."""
    for name, value in fields.items():
        section, _, field = name.partition(".")
        changed = getattr(config, section).model_copy(update={field: value})
        config = config.model_copy(update={section: changed})
    return config


def continued(saved: Config, now: Config, step: int, *, other_text: bool) -> Config:
    """Return the configuration of a run that was ``saved`` after ``step`` and continues with ``now``.

    From the next step on all is as in ``now``. What decided the order of the data before stays as in ``saved``, and a
    difference between the two is a stage of its own: so the configuration says how every step was trained, and from it
    follow samples consumed and tokens seen. Fields that are free to change, such as the micro-batch, are as in ``now``.

    Args:
        other_text: whether the corpora of the two differ; otherwise one in another place has been moved there.
    """
    before, after = flat(config_at(saved, step)), flat(config_at(now, step + 1))
    from_saved = {
        name
        for name in STAGE_FIELDS
        if before[name] == after[name] or name in DECIDE_ORDER or (name == "data.path" and other_text)
    }
    changes: dict[int, dict[str, Any]] = {}
    for config, are_from_saved, last in ((saved, True, step), (now, False, step + 1)):
        for change in config.stages:
            fields = {n: value for n, value in change.fields.items() if (n in from_saved) == are_from_saved}
            if change.from_step <= last and fields:
                changes.setdefault(change.from_step, {}).update(fields)
    different = {name: after[name] for name in from_saved if before[name] != after[name]}
    if different:
        changes.setdefault(step + 1, {}).update(different)
    begun = flat(saved)
    base = with_fields(now, {name: begun[name] for name in from_saved})
    stages = [_change(first_step, fields) for first_step, fields in sorted(changes.items())]
    stages += [change for change in now.stages if change.from_step > step + 1]
    return base.model_copy(update={"stages": stages})


def _change(from_step: int, fields: Mapping[str, Any]) -> StageChange:
    return StageChange.model_validate({"from_step": from_step, **fields})
