"""A sweep: one run for every combination of values, submitted as one job array."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from unipool_dist.errors import ConfigError

_MAX_NAME = 120


def combinations(sweeps: Sequence[str]) -> list[tuple[str, ...]]:
    """``["a.b=1,2", "c.d=x,y"]`` as overrides of each run: ``("a.b=1", "c.d=x")`` and so on; one empty one of none.

    Raises:
        ConfigError: a sweep is not of this form, or sweeps the same field twice.
    """
    axes: list[list[str]] = []
    names: set[str] = set()
    for sweep in sweeps:
        name, separator, values = sweep.partition("=")
        if not separator or "." not in name or not all(values.split(",")):
            raise ConfigError(f"--sweep {sweep!r} is not of the form section.field=value,value,...")
        if name in names:
            raise ConfigError(f"--sweep {name} is given twice; put all of its values into one")
        if name == "run.dir":
            raise ConfigError("--sweep run.dir: every run of a sweep has a directory of its own already")
        names.add(name)
        axes.append([f"{name}={value}" for value in values.split(",")])
    return list(itertools.product(*axes))


def folder_name(index: int, overrides: Sequence[str]) -> str:
    """Name of the run directory of one combination: ``0-train.seed=1``.

    What could mean something to a shell, to SLURM or in a path becomes ``_``, and a long name is cut: ``index`` alone
    makes it unique.
    """
    name = "-".join([str(index), *overrides])
    return re.sub(r"[^A-Za-z0-9._=+,@-]", "_", name)[:_MAX_NAME]
