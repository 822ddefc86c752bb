"""``unipool-dist train``: checks what can be checked at once, then trains, here or in processes of its own."""

from __future__ import annotations

import os
from pathlib import Path

import click

from unipool_dist.cli.numbers import PROCESSES_HERE, STEP
from unipool_dist.config import Config, load_config, resolve_config
from unipool_dist.resilience.orphans import end_with_launcher
from unipool_dist.resilience.signals import StopSignals
from unipool_dist.topology.environment import signalled_twice


@click.command()
@click.argument("config_path", metavar="CONFIG", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[SECTION.FIELD=VALUE ...]")
@click.option("--nproc", type=PROCESSES_HERE, help="Start this many processes on this machine.")
@click.option("--resume", is_flag=True, help="Go on from the newest whole checkpoint; begin if there is none yet.")
@click.option("--from", "from_step", type=STEP, metavar="STEP", help="Resume from this checkpoint.")
@click.option("--overwrite", is_flag=True, help="Replace the run that run.dir already holds, checkpoints included.")
def train(
    config_path: Path,
    overrides: tuple[str, ...],
    nproc: int | None,
    resume: bool,
    from_step: int | None,
    overwrite: bool,
) -> None:
    """Train the model that CONFIG describes.

    Without --nproc this is one process of those that torchrun or SLURM started, or a run of a single process.

    SIGTERM, SIGINT or SIGUSR1 on any process saves the state after the step under way and ends the run with exit
    status 75; the same command with --resume goes on, on any layout. A second signal ends it at once.
    """
    resume = resume or from_step is not None
    if resume and overwrite:
        raise click.UsageError("--overwrite deletes the checkpoints that --resume and --from need; give one of them")
    config = load_config(config_path, overrides)
    # Else torch tells of a lost peer in twenty lines of C++ frames, before the line that says what happened.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if nproc is None:
        end_with_launcher()
        same_request_s = 1.0 if signalled_twice() else 0.2
        with StopSignals(same_request_s=same_request_s) as signals:  # already now: what follows takes seconds to import
            from unipool_dist.cli.session import Start
            from unipool_dist.cli.worker import run_worker

            run_worker(config, Start(overwrite, resume, from_step), signals)
        return
    check_before_start(config, nproc, overwrite=overwrite, resume=resume)
    from unipool_dist.cli.launch import launch_local

    flags = [flag for flag, given in (("--resume", resume), ("--overwrite", overwrite)) if given]
    if from_step is not None:
        flags.append(f"--from={from_step}")
    launch_local(["train", *flags, "--", str(config_path), *overrides], nproc)


def check_before_start(config: Config, world_size: int, *, overwrite: bool, resume: bool) -> Config:
    """Find, before any process is started, every mistake that can be found; return the resolved configuration.

    Raises:
        UnipoolError: the layout is impossible, the corpus missing or damaged, or the run directory taken.
    """
    from unipool_dist.cli.rundir import check_run_dir
    from unipool_dist.data.corpus import Corpus
    from unipool_dist.topology.layout import rank_grid

    resolved = resolve_config(config, world_size)
    rank_grid(resolved)
    check_run_dir(Path(config.run.dir), overwrite=overwrite, resume=resume)
    Corpus.open(config.data.path, verify="size")
    return resolved
