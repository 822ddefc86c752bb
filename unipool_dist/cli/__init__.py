"""The command line: one command, `unipool-dist`, with subcommands."""

from __future__ import annotations

import sys

import click

from unipool_dist.cli.checkpoint import checkpoint
from unipool_dist.cli.data import data
from unipool_dist.cli.train import train
from unipool_dist.errors import UnipoolError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Train UniPool models: one pool of experts, owned across all pipeline stages.

    \b
    First steps:
      unipool-dist data prepare data/default        real text, tokenized
      unipool-dist train configs/small.yaml --nproc 4
    \b
    On a cluster, start `unipool-dist train CONFIG` once per process with torchrun or srun
    (launchers/). Any field of the configuration can be set behind it: train.steps=200.
    """


cli.add_command(checkpoint)
cli.add_command(data)
cli.add_command(train)


def main() -> None:
    """Entry point. Errors meant for the user are printed without a traceback; exit status 1, or 2 for wrong usage."""
    try:
        cli()
    except UnipoolError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
