"""``unipool-dist train``: checks what can be checked at once, then trains, here or in processes of its own."""

from __future__ import annotations

from pathlib import Path

import click

from unipool_dist.config import Config, load_config, resolve_config


@click.command()
@click.argument("config_path", metavar="CONFIG", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[SECTION.FIELD=VALUE ...]")
@click.option("--nproc", type=click.IntRange(min=1), help="Start this many processes on this machine.")
@click.option("--overwrite", is_flag=True, help="Replace the run that run.dir already holds.")
def train(config_path: Path, overrides: tuple[str, ...], nproc: int | None, overwrite: bool) -> None:
    """Train the model that CONFIG describes.

    Without --nproc this is one process of those that torchrun or SLURM started, or a run of a single process.
    """
    config = load_config(config_path, overrides)
    if nproc is None:
        from unipool_dist.cli.worker import run_worker

        run_worker(config, overwrite=overwrite)
        return
    check_before_start(config, nproc, overwrite=overwrite)
    from unipool_dist.cli.launch import launch_local

    command = ["train", str(config_path), *overrides, *(["--overwrite"] if overwrite else [])]
    launch_local(command, nproc)


def check_before_start(config: Config, world_size: int, *, overwrite: bool) -> Config:
    """Find, before any process is started, every mistake that can be found; return the resolved configuration.

    Raises:
        UnipoolError: the layout is impossible, the corpus missing or damaged, or the run directory taken.
    """
    from unipool_dist.cli.rundir import check_run_dir
    from unipool_dist.data.corpus import Corpus
    from unipool_dist.topology.layout import rank_grid

    resolved = resolve_config(config, world_size)
    rank_grid(resolved)
    check_run_dir(Path(config.run.dir), overwrite=overwrite)
    Corpus.open(config.data.path, verify="size")
    return resolved
