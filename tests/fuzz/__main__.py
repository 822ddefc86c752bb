"""``python -m tests.fuzz``: no input may end in a traceback, hang, fill the memory, run, or get out of its folder.

Each input is made from a class, a seed and a number alone, so that one that fails can be had again:
``python -m tests.fuzz --class corpora --seed 7 --only 123``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

import click

from tests.fuzz.checkpoints import CHECKPOINTS
from tests.fuzz.configurations import CONFIGURATIONS
from tests.fuzz.corpora import CORPORA
from tests.fuzz.manifests import MANIFESTS
from tests.fuzz.material import made
from tests.fuzz.runner import Campaign
from tests.fuzz.sources import SOURCES
from tests.fuzz.submissions import SUBMISSIONS
from tests.fuzz.table import causes, table

CLASSES = {each.name: each for each in (CONFIGURATIONS, MANIFESTS, CHECKPOINTS, CORPORA, SOURCES, SUBMISSIONS)}


@click.command(context_settings={"show_default": True})
@click.option(
    "--class", "names", multiple=True, type=click.Choice(list(CLASSES)), help="Classes of inputs.  [default: all]"
)
@click.option("--seed", type=int, help="Of all inputs.  [default: a new one, which is printed]")
@click.option("--only", type=click.IntRange(min=0), multiple=True, help="Inputs of this number alone; shows all.")
@click.option("--share", default=1.0, help="Of a full run's number of inputs.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, help="Inputs at a time.")
@click.option("--keep", is_flag=True, help="Keep the folder in which the input lies.")
def main(names: tuple[str, ...], seed: int | None, only: tuple[int, ...], share: float, jobs: int, keep: bool) -> None:
    """Try hostile inputs; exit status 1 if a promise was broken."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    click.echo(f"seed {seed}")
    root = Path(tempfile.mkdtemp(prefix="unipool-dist-fuzz-"))
    try:
        home = root / "home"
        home.mkdir()
        os.environ.update(HOME=str(home), HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", DS_ACCELERATOR="cpu")
        campaign = Campaign([CLASSES[name] for name in names or CLASSES], seed, made(root / "material"), root)
        tried = campaign.show(only) if only else campaign.run(share, jobs)
    finally:
        if keep:
            click.echo(f"kept: {root}")
        else:
            shutil.rmtree(root)
    click.echo("\n".join(table(tried)))
    failed = causes(tried, seed)
    click.echo(failed, nl=False)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
