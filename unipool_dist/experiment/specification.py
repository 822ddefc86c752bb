"""An experiment's file: the variants of a configuration, their seeds, and where the runs are placed."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unipool_dist.base.belongings import exists, foreign
from unipool_dist.base.forms import either, head
from unipool_dist.base.printable import listed, printable, short
from unipool_dist.base.reading import read_text
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.writing import replace_text
from unipool_dist.base.yaml_text import read_yaml
from unipool_dist.config.values import PathText, Seed
from unipool_dist.errors import ConfigError

FROZEN_FILE = "experiment.yaml"
"""Copy in the experiment's directory of its file when the experiment was last started."""
# Recognizes the file, also those of earlier versions: it must not change.
_FROZEN_MARK = "# What `unipool-dist experiment` was last given; written anew by the next call.\n"
_OF_THE_OUTPUT = (RunDirectory.report_figures, RunDirectory.job, RunDirectory.logs)
_RESERVED = ("report", *(entry.name for entry in _OF_THE_OUTPUT))
"""Folders in the directory of an experiment that hold no runs."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{,149}")
_DECIDED = {"run.dir": "output", "train.seed": "seeds"}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Variant(_Part):
    """One configuration of the experiment."""

    title: str | None = Field(None, description="what reports call it; null: its name")
    base: PathText | None = Field(None, description="configuration beneath it, instead of the common one")
    set: dict[str, Any] = Field({}, description="fields that differ, dotted as on the command line")
    seeds: list[Seed] | None = Field(None, description="seeds of its runs, instead of the common ones")


class Experiment(_Part):
    """The whole file."""

    title: str | None = Field(None, description="what reports call the experiment")
    description: str | None = Field(None, description="free text, for reports")
    output: PathText = Field(description="directory of the experiment; a run is in OUTPUT/VARIANT/seed-N")
    base: PathText | None = Field(None, description="configuration beneath every variant, relative to this file")
    set: dict[str, Any] = Field({}, description="fields of all variants, dotted as on the command line")
    seeds: list[Seed] = Field(description="train.seed of each variant's runs")
    baseline: str | None = Field(None, description="the variant that others are compared with")
    variants: dict[str, Variant] = Field(description="by name, which is also that of its directory")

    def seeds_of(self, variant: str) -> list[int]:
        """Return the seeds of the runs of ``variant``."""
        own = self.variants[variant].seeds
        return self.seeds if own is None else own


def read_experiment(path: Path) -> Experiment:
    """Read and check an experiment's file; the configurations that follow from it are checked later.

    Raises:
        ConfigError: it cannot be read, or is not an experiment; all faults are named at once.
    """
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(f"no experiment at {path}; docs/experiments.md shows what one looks like") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{printable(path)} cannot be read as YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must be a mapping of {', '.join(Experiment.model_fields)}")
    if isinstance(values.get("variants"), dict):  # `name:` alone is the base as it is
        values["variants"] = {name: {} if body is None else body for name, body in values["variants"].items()}
    try:
        experiment = Experiment.model_validate(values)
    except ValidationError as error:
        raise _invalid(path, [_fault(item["loc"], item["msg"]) for item in error.errors()]) from None
    faults = _faults(experiment)
    if faults:
        raise _invalid(path, faults)
    return experiment


def freeze_experiment(experiment: Experiment, file: Path) -> None:
    """Write OUTPUT/experiment.yaml with exactly the content of ``file``, unless it is that file.

    Raises:
        ConfigError: the directory cannot be written.
    """
    path = Path(experiment.output) / FROZEN_FILE
    if path.exists() and path.samefile(file):
        return
    text = _FROZEN_MARK + yaml.safe_dump(experiment.model_dump(exclude_unset=True), sort_keys=False, allow_unicode=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, text)
    except OSError as error:
        raise ConfigError(f"output={experiment.output} cannot be written: {error}; choose another directory") from None


def foreign_freeze(experiment: Experiment, file: Path, *, begun: bool) -> list[Path]:
    """Return OUTPUT/experiment.yaml if :func:`freeze_experiment` has not written it and so may not replace it.

    Args:
        begun: there are runs of the experiment; earlier versions wrote the file without a mark.
    """
    path = Path(experiment.output) / FROZEN_FILE
    if exists(path) and path.exists() and path.samefile(file):
        return []
    return foreign(path, either(_is_marked, _is_as_dumped) if begun else _is_marked)


def _is_marked(path: Path) -> bool:
    return head(path).startswith(_FROZEN_MARK.encode())


def _is_as_dumped(path: Path) -> bool:
    try:
        values = read_yaml(path)
        Experiment.model_validate(values)
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True) == read_text(path)
    except (OSError, ValueError):
        return False


def _faults(experiment: Experiment) -> list[str]:
    """Return faults that types alone do not catch."""
    faults = []
    if not experiment.variants:
        faults.append("variants: there is none; name at least one")
    if experiment.baseline is not None and experiment.baseline not in experiment.variants:
        faults.append(f"baseline: {experiment.baseline} is none of the variants ({', '.join(experiment.variants)})")
    faults += _title_faults(experiment)
    faults += _seed_faults("seeds", experiment.seeds) + _set_faults("set", experiment.set)
    for name, variant in experiment.variants.items():
        if not _NAME.fullmatch(name):
            faults.append(
                f"variants.{short(name, 150)}: cannot be the name of a directory; use up to 150 letters, digits, '.', "
                f"'_', '-', '+' and '='"
            )
        elif name in _RESERVED:
            faults.append(f"variants.{name}: OUTPUT/{name} has another purpose; choose another name")
        faults += _set_faults(f"variants.{name}.set", variant.set)
        if variant.seeds is not None:
            faults += _seed_faults(f"variants.{name}.seeds", variant.seeds)
    return faults


def _title_faults(experiment: Experiment) -> list[str]:
    """Return duplicate titles: reports tell variants apart by them."""
    titles: dict[str, list[str]] = {}
    for name, variant in experiment.variants.items():
        titles.setdefault(variant.title or name, []).append(name)
    return [
        f"variants: {' and '.join(names)} have the same title {title!r}; give each one of its own"
        for title, names in titles.items()
        if len(names) > 1
    ]


def _seed_faults(where: str, seeds: list[int]) -> list[str]:
    if not seeds:
        return [f"{where}: there is none; give at least one"]
    twice = sorted(seed for seed, count in Counter(seeds).items() if count > 1)
    return [f"{where}: {', '.join(map(str, twice))} is there twice"] if twice else []


def _set_faults(where: str, fields: dict[str, Any]) -> list[str]:
    faults = []
    for name in fields:
        if name in _DECIDED:
            faults.append(f"{where}: {name} follows from {_DECIDED[name]}; set that instead")
        elif len(name.split(".")) < 2 or not all(name.split(".")):
            faults.append(f"{where}: {name} must be of the form section.field, as in train.steps: 200")
    return faults


def _fault(place: tuple[int | str, ...], message: str) -> str:
    parts = [str(part) for part in place]
    if parts[-1] == "[key]":
        return f"{'.'.join(parts[:-1])}: names must be text, in quotes if they look like numbers"
    message = "no such field" if message.startswith("Extra inputs") else message.removeprefix("Value error, ")
    return f"{'.'.join(parts)}: {message}"


def _invalid(path: Path, faults: list[str]) -> ConfigError:
    return ConfigError(
        f"{printable(path)} is not a valid experiment:\n{listed(faults)}"
        f"\nits fields: {', '.join(Experiment.model_fields)}; those of a variant: {', '.join(Variant.model_fields)}"
    )
