"""A sweep: one run for every combination of values, submitted as one job array."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence

from unipool_dist.base.printable import printable
from unipool_dist.config import Config
from unipool_dist.errors import ConfigError

MAX_RUNS = 2_000
"""SLURM's own default is an array of 1,000."""
_MAX_NAME = 120


def combinations(sweeps: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the overrides of each run, one for every combination of values; without sweeps, one empty tuple.

    ``["a.b=1,2", "c.d=x,y"]`` gives ``("a.b=1", "c.d=x")`` and so on. Commas in brackets and in quotes are part of a
    value: ``data.weights={a: 1, b: 2},{a: 2, b: 1}`` are two.

    Raises:
        ConfigError: a sweep is not of this form, sweeps the same field twice, or there are too many runs.
    """
    axes: list[list[str]] = []
    names: set[str] = set()
    for sweep in sweeps:
        name, separator, text = sweep.partition("=")
        values = _values(text)
        if not separator or "." not in name or not all(values):
            raise ConfigError(
                f"--sweep {printable(sweep)!r} is not of the form section.field=value,value,... with brackets and "
                f"quotes closed"
            )
        if name in names:
            raise ConfigError(f"--sweep {name} is given twice; put all of its values into one")
        if name == "run.dir":
            raise ConfigError("--sweep run.dir: every run of a sweep has a directory of its own already")
        names.add(name)
        axes.append([f"{name}={value}" for value in values])
    if math.prod(map(len, axes)) > MAX_RUNS:
        raise ConfigError(f"--sweep: these are more than {MAX_RUNS:,} runs; submit them in parts")
    return list(itertools.product(*axes))


def check_distinct(configs: Mapping[str, Config]) -> None:
    """Refuse to train the same twice: values written differently may be the same, as ``1e-3`` and ``0.001``.

    Raises:
        ConfigError: two of the runs, whose names are the keys, have equal configurations.
    """
    seen: dict[str, str] = {}
    for name, config in configs.items():
        other = seen.setdefault(config.model_dump_json(), name)
        if other != name:
            raise ConfigError(f"--sweep: {other} and {name} are the same run; leave one of the values out")


def folder_name(index: int, overrides: Sequence[str]) -> str:
    """Return the name of the run directory of one combination: ``0-train.seed=1``.

    Characters special to a shell, to SLURM or in a path become ``_``, and a long name is cut: ``index`` alone makes it
    unique.
    """
    name = "-".join([str(index), *overrides])
    return re.sub(r"[^A-Za-z0-9._=+,@-]", "_", name)[:_MAX_NAME]


def _values(text: str) -> list[str]:
    """Return the values of a sweep; an empty one if brackets or quotes are not closed."""
    values, start, depth, quote = [], 0, 0, ""
    for place, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"" and (depth or place == start):
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}" and depth:
            depth -= 1
        elif char == "," and not depth:
            values.append(text[start:place])
            start = place + 1
    return [*values, "" if quote or depth else text[start:]]
