"""Numbers on the command line: finite, and small enough for what they count."""

from __future__ import annotations

import math
from typing import Any

import click

MAX_SECONDS = 1e9
"""Thirty years; the clocks that wait take no more than about ten times that."""


class Finite(click.FloatRange):
    """A range of floats that excludes nan and infinity, which no comparison keeps out."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


COUNT = click.IntRange(min=1, max=1_000_000)
"""Of what is done one after the other."""
STEP = click.IntRange(min=0, max=10**12)
SEED = click.IntRange(min=0, max=2**63 - 1)
PROCESSES = click.IntRange(min=1, max=100_000)
"""Of a whole run, or files, or runs."""
PROCESSES_HERE = click.IntRange(min=1, max=4096)
"""To start on this machine."""
BYTES = click.IntRange(max=2**63 - 1)
VOCABULARY = click.IntRange(max=1_000_000)
PER_NODE = click.IntRange(min=1, max=1024)
PER_NODE_OR_NONE = click.IntRange(min=0, max=1024)
