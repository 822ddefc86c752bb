"""What click lacks: commands imported when called, and numbers that are finite and small enough for what they count.

Most commands need torch, which takes seconds to import.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
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
"""Number of things done one after the other."""
STEP = click.IntRange(min=0, max=10**12)
SEED = click.IntRange(min=0, max=2**63 - 1)
PROCESSES = click.IntRange(min=1, max=100_000)
"""Number of processes of a whole run, or of files, or of runs."""
PROCESSES_HERE = click.IntRange(min=1, max=4096)
"""Number of processes to start on this machine."""
BYTES = click.IntRange(max=2**63 - 1)
VOCABULARY = click.IntRange(max=1_000_000)
PER_NODE = click.IntRange(min=1, max=1024)
PER_NODE_OR_NONE = click.IntRange(min=0, max=1024)


class LazyGroup(click.Group):
    """A group of the commands in ``lazy``: name to module, whose attribute of that name is the command, and short help.

    Listing them imports none of them.
    """

    def __init__(self, *, lazy: Mapping[str, tuple[str, str]], **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        command = getattr(import_module(self.lazy[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = None if name in self.lazy else self.get_command(ctx, name)
            rows.append((name, self.lazy[name][1] if command is None else command.get_short_help_str()))
        with formatter.section("Commands"):
            formatter.write_dl(rows)
