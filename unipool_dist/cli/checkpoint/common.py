"""Options and output that the commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from unipool_dist.base.console import put, say
from unipool_dist.base.printable import printable
from unipool_dist.checkpoint.offline.counting import Count
from unipool_dist.checkpoint.offline.locate import Located, locate
from unipool_dist.cli.numbers import STEP

run_argument = click.argument("run", type=click.Path(path_type=Path))
step_option = click.option(
    "--step", type=STEP, metavar="N", help="The checkpoint of this step.  [default: newest whole one]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


def find(run: Path, step: int | None) -> Located:
    """Find the checkpoint that is meant; warn on stderr if the newest one is not whole and an older one is used."""
    located = locate(run, step)
    for fault in located.passed_over:
        say(f"warning: a newer checkpoint is damaged and passed over: {fault}", err=True)
    return located


def print_json(document: Mapping[str, Any]) -> None:
    """Write the JSON document of a command to standard output."""
    put(json.dumps(document, indent=1, default=str) + "\n")


@contextmanager
def byte_bar(what: str, total: int) -> Iterator[Count]:
    """Show a progress bar of bytes on stderr if that is a terminal, else nothing."""
    from tqdm import tqdm

    with tqdm(
        total=total, desc=printable(what), unit="B", unit_scale=True, disable=not sys.stderr.isatty(), file=sys.stderr
    ) as bar:
        yield lambda num_bytes: bar.update(num_bytes)


def size(num_bytes: int) -> str:
    """Return ``1.7 MB`` for people."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.1f} {unit}"
    return f"{num_bytes} B"


def files(count: int) -> str:
    """Return ``1 file``, ``2 files``."""
    return "1 file" if count == 1 else f"{count:,} files"


def layout(sizes: Mapping[str, int]) -> str:
    """Describe the layout of the run that wrote a checkpoint; an imported model has none."""
    if not sizes:
        return "imported"
    pp, dp, tp, q = (sizes.get(name, "?") for name in ("pp", "dp", "tp", "pool_parallel_size"))
    return f"pp {pp} x dp {dp} x tp {tp}, q {q}"
