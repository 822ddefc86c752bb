"""What ``experiment.yaml`` says that a report shows: names, titles, order, baseline, overrides, seeds.

Read leniently: which fields an experiment may have is decided where it is started, and a page about its runs needs
only these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from unipool_dist.errors import UnipoolError

EXPERIMENT_FILE = "experiment.yaml"


@dataclass(frozen=True)
class Variant:
    """One of the things compared."""

    name: str
    """Its folder, relative to the experiment's."""
    title: str
    overrides: tuple[str, ...] = ()
    """``section.field=value``, those of the experiment not repeated."""
    base: str | None = None
    """The configuration it starts from, as written in the file; ``None``: the experiment's."""
    seeds: tuple[int, ...] | None = None
    """The runs there should be; ``None``: not known."""


@dataclass(frozen=True)
class Experiment:
    """What is compared, in the order in which it is shown."""

    title: str
    description: str
    variants: tuple[Variant, ...]
    baseline: str | None
    """Name of the variant that the others are compared with; ``None`` if there is only one variant."""
    base: str | None = None
    overrides: tuple[str, ...] = ()
    """Those of all variants."""

    def title_of(self, name: str) -> str:
        """The title of the variant ``name``."""
        return next(variant.title for variant in self.variants if variant.name == name)

    def compared_with(self, name: str | None) -> Experiment:
        """The same with another baseline; ``None`` changes nothing.

        Raises:
            UnipoolError: there is no such variant.
        """
        names = [variant.name for variant in self.variants]
        if name is None:
            return self
        if name not in names:
            raise UnipoolError(f"there is no variant {name} to compare with; the variants are {', '.join(names)}")
        return replace(self, baseline=name)


def read_experiment(path: Path) -> Experiment:
    """The experiment described in ``path``; without a ``baseline`` the first variant is it.

    Raises:
        UnipoolError: the file cannot be read, or does not say which variants there are.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnipoolError(f"{path} cannot be read as YAML: {error}") from None
    variants = values.get("variants") if isinstance(values, dict) else None
    if not isinstance(variants, dict) or not variants:
        raise UnipoolError(f"{path} has no mapping `variants`; list under it what is compared, each under a name")
    seeds = _seeds(values.get("seeds"))
    each = tuple(_variant(str(name), fields or {}, seeds, path) for name, fields in variants.items())
    experiment = named_experiment(str(values.get("title") or path.resolve().parent.name), each)
    if values.get("baseline") is not None:
        experiment = experiment.compared_with(str(values["baseline"]))
    return replace(
        experiment,
        description=str(values.get("description") or "").strip(),
        base=_text(values.get("base")),
        overrides=_overrides(values.get("set")),
    )


def named_experiment(title: str, variants: tuple[Variant, ...]) -> Experiment:
    """An experiment of which nothing is known but its variants; the first is the baseline of the others."""
    return Experiment(title, "", variants, variants[0].name if len(variants) > 1 else None)


def _variant(name: str, fields: Any, seeds: tuple[int, ...] | None, path: Path) -> Variant:
    if not isinstance(fields, dict):
        raise UnipoolError(f"{path}: variants.{name} must be a mapping, such as {{title: ..., set: {{...}}}}")
    return Variant(
        name=name,
        title=str(fields.get("title") or name),
        overrides=_overrides(fields.get("set")),
        base=_text(fields.get("base")),
        seeds=_seeds(fields["seeds"]) if fields.get("seeds") is not None else seeds,
    )


def _seeds(value: Any) -> tuple[int, ...] | None:
    return tuple(value) if isinstance(value, list) and all(isinstance(seed, int) for seed in value) else None


def _overrides(value: Any) -> tuple[str, ...]:
    """A mapping of fields to values, nested or not, or a list of ``section.field=value``, as the latter."""
    if isinstance(value, dict):
        return tuple(_flat(value))
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _flat(values: dict[Any, Any], prefix: str = "") -> list[str]:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            lines += _flat(value, f"{prefix}{name}.")
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
            lines.append(f"{prefix}{name}={text}")
    return lines


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
