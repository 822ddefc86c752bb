"""``unipool-dist checkpoint``: list, verify and inspect checkpoints, and take them elsewhere."""

from __future__ import annotations

import click

from unipool_dist.cli.checkpoint.inspection import inspect
from unipool_dist.cli.checkpoint.interchange import export, import_
from unipool_dist.cli.checkpoint.listing import list_, verify
from unipool_dist.cli.checkpoint.resharding import reshard


@click.group()
def checkpoint() -> None:
    """List, verify, inspect, reshard, export and import checkpoints.

    RUN is the run.dir of a run. Commands for one checkpoint use the newest that is whole, or that of --step; or give
    its folder, step-XXXXXXXX, in place of RUN.
    """


for command in (list_, verify, inspect, reshard, export, import_):
    checkpoint.add_command(command)
