"""Options and output that the commands share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from unipool_dist.base.console import put, say
from unipool_dist.base.user_code import trust
from unipool_dist.checkpoint.offline.locate import Located, locate
from unipool_dist.cli.option_types import STEP

run_argument = click.argument("run", type=click.Path(path_type=Path))
step_option = click.option(
    "--step", type=STEP, metavar="N", help="The checkpoint of this step.  [default: newest whole one]"
)
trust_option = click.option(
    "--trust",
    multiple=True,
    metavar="MODULE:CLASS",
    expose_value=False,
    callback=lambda context, parameter, names: trust(names),
    help="Code that the configuration names and may import.",
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


def layout(sizes: Mapping[str, int]) -> str:
    """Describe the layout of the run that wrote a checkpoint; an imported model has none."""
    if not sizes:
        return "imported"
    pp, dp, tp, q = (sizes.get(name, "?") for name in ("pp", "dp", "tp", "pool_parallel_size"))
    return f"pp {pp} x dp {dp} x tp {tp}, q {q}"
