"""``python -m tests.soak``: runs that are killed again and again must lose next to nothing, and leave nothing behind.

Two small runs, of two processes and of four, save every five steps. They are killed with SIGKILL at random moments: as
they start, between steps, while a checkpoint is being written; a rank, rank 0, the launcher, the launcher and a rank,
all. After each kill: no process is left a minute later, and no temporary file; every checkpoint is whole, every byte of
it; no more is lost than one interval and the steps that ran while the last save was still being written. The next start
must resume from exactly the newest checkpoint. In the end the states equal, bit for bit, those of runs that were never
interrupted.

Interrupted itself, it goes on where it was, unless started with ``--fresh``.
"""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import click

from tests.soak.campaign import INTERVAL, Soak
from tests.soak.kills import summary
from tests.soak.promises import ViolationError


@click.command(context_settings={"show_default": True})
@click.option("--kills", type=click.IntRange(min=1), default=200, help="how often the runs are killed")
@click.option("--seed", default=1, help="of moments and victims")
@click.option("--folder", default="runs/soak", type=click.Path(path_type=Path), help="where everything is kept")
@click.option("--fresh", is_flag=True, help="begin anew")
def main(kills: int, seed: int, folder: Path, fresh: bool) -> None:
    """Kill training runs again and again; exit status 1 if a promise is broken."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the run is ended too
    if fresh:
        Soak(folder.absolute(), kills, seed).end_all()
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    soak = Soak(folder.absolute(), kills, seed)
    try:
        soak.run()
    except ViolationError as violation:
        click.echo(f"broken: {violation}", err=True)
        sys.exit(1)
    click.echo(summary(soak.kills, INTERVAL))


if __name__ == "__main__":
    main()
