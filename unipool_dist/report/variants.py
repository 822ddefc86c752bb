"""What a report takes from ``experiment.yaml``: names, titles, order, baseline, overrides, seeds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from unipool_dist.errors import UnipoolError
from unipool_dist.experiment import specification


@dataclass(frozen=True)
class Variant:
    """One of the configurations compared."""

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
    """The variants compared, in the order in which they are shown."""

    title: str
    description: str
    variants: tuple[Variant, ...]
    baseline: str | None
    """Name of the variant that the others are compared with; ``None`` if there is only one variant."""
    base: str | None = None
    overrides: tuple[str, ...] = ()
    """Overrides of all variants."""

    def title_of(self, name: str) -> str:
        """Return the title of the variant ``name``."""
        return next(variant.title for variant in self.variants if variant.name == name)

    def compared_with(self, name: str | None) -> Experiment:
        """Return the same experiment with another baseline; ``None`` changes nothing.

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
    """Read the experiment described in ``path``; without a ``baseline`` it is the first variant.

    Raises:
        ConfigError: the file cannot be read, or is not an experiment.
    """
    file = specification.read_experiment(path)
    variants = tuple(
        Variant(name, variant.title or name, _overrides(variant.set), variant.base, tuple(file.seeds_of(name)))
        for name, variant in file.variants.items()
    )
    experiment = named_experiment(file.title or path.resolve().parent.name, variants)
    return replace(
        experiment.compared_with(file.baseline),
        description=(file.description or "").strip(),
        base=file.base,
        overrides=_overrides(file.set),
    )


def named_experiment(title: str, variants: tuple[Variant, ...]) -> Experiment:
    """Make an experiment from the names of its variants alone; the first is the baseline."""
    return Experiment(title, "", variants, variants[0].name if len(variants) > 1 else None)


def _overrides(fields: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{name}={_written(value)}" for name, value in fields.items())


def _written(value: Any) -> str:
    return str(yaml.safe_dump(value, default_flow_style=True, width=10_000)).removesuffix("...\n").strip()
