"""``unipool-dist experiment``: variants of a configuration, each trained with several seeds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unipool_dist.base.console import put, say
from unipool_dist.base.exit_statuses import RESUME
from unipool_dist.base.printable import aligned
from unipool_dist.base.project import user_path
from unipool_dist.cli.experiment_places import check_places
from unipool_dist.cli.option_types import PER_NODE, PER_NODE_OR_NONE, PROCESSES, PROCESSES_HERE
from unipool_dist.cli.submit import check_corpora, check_time, resources_of, tell_submitted
from unipool_dist.config.staging import corpus_paths
from unipool_dist.experiment.planned import Run, check_distinct, check_unchanged, planned_runs, resolved_configs
from unipool_dist.experiment.progress import Progress, progress_of
from unipool_dist.experiment.specification import Experiment, freeze_experiment, read_experiment
from unipool_dist.run.heartbeat import read_heartbeat
from unipool_dist.run.state import RunState

if TYPE_CHECKING:
    from unipool_dist.jobs.submission import Request

_OF_SLURM = ("nodes", "gpus_per_node", "tasks_per_node", "limit", "profile")


@dataclass(frozen=True)
class _Asked:
    """An experiment, and those of its runs that this call is about."""

    file: Path
    experiment: Experiment
    runs: list[Run]

    @property
    def output(self) -> Path:
        return Path(self.experiment.output)


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--jobs", type=PROCESSES, help="Runs at a time.  [default: 1; with --slurm: no limit]")
@click.option("--nproc", type=PROCESSES_HERE, help="Processes of each run on this machine.  [default: 1]")
@click.option("--only", metavar="VARIANT[,...]", help="Leave out all other variants.")
@click.option("--seeds", metavar="N[,...]", help="Leave out all other seeds.")
@click.option("--dry-run", is_flag=True, help="List the runs and how far they are; with --slurm print the script.")
@click.option("--slurm", is_flag=True, help="Submit the runs that are not done as one job array instead.")
@click.option("--nodes", metavar="N|MIN-MAX", help="--slurm: nodes of each run.  [default: 1]")
@click.option("--gpus-per-node", type=PER_NODE_OR_NONE, help="--slurm: GPUs, and processes, on each node.")
@click.option("--tasks-per-node", type=PER_NODE, help="--slurm: processes on each node, without GPUs.")
@click.option("--time", "limit", metavar="T", help="--slurm: time limit of one start of a run: 24:00:00.")
@click.option("--profile", type=click.Path(path_type=Path), help="--slurm: what to know of this cluster.")
def experiment(
    file: Path,
    jobs: int | None,
    nproc: int | None,
    only: str | None,
    seeds: str | None,
    dry_run: bool,
    slurm: bool,
    nodes: str | None,
    gpus_per_node: int | None,
    tasks_per_node: int | None,
    limit: str | None,
    profile: Path | None,
) -> None:
    """Train the variants that FILE describes, each with several seeds: on this machine or as a job array.

    The run of a variant and seed is in OUTPUT/VARIANT/seed-N. Finished runs are skipped and interrupted ones
    continued, so the same command resumes an experiment, and trains what was added to FILE since. A run that fails does
    not keep the others from training; the same command tries it again.

    \b
    FILE, whose fields docs/experiments.md explains:
      output: runs/router
      base: small.yaml                    # relative to FILE
      set: {train.steps: 2000}
      seeds: [1, 2, 3]
      baseline: vanilla
      variants:
        vanilla: {set: {pool.layers_per_group: 1, pool.router: softmax}}
        unipool: {}

    \b
    unipool-dist experiment router.yaml --jobs 4
    unipool-dist experiment router.yaml --dry-run
    unipool-dist experiment router.yaml --slurm --gpus-per-node 8 --time 24:00:00

    Exit status: 0 when all runs are done, or left to others that are at them; 1 when any failed; 75 when SIGINT or
    SIGTERM stopped it, or a run stopped, with the states saved: the same command continues.
    """
    check_time(limit)
    if not slurm:
        _refuse_slurm_options(click.get_current_context())
    file = user_path(file)
    described = read_experiment(file)
    names = [name for name in (only or "").split(",") if name]
    asked = _Asked(file, described, planned_runs(described, file.parent, only=names, seeds=_numbers(seeds)))
    check_distinct(asked.runs)
    if not slurm:
        _train_here(asked, num_at_once=jobs or 1, num_processes=nproc or 1, dry_run=dry_run)
        return
    if nproc is not None:
        raise click.UsageError("--nproc: with --slurm the processes are one per GPU, or --tasks-per-node")
    if limit is None or (gpus_per_node is None and tasks_per_node is None):
        raise click.UsageError("--slurm needs --time, and --gpus-per-node or --tasks-per-node")
    from unipool_dist.jobs.profile import load_profile
    from unipool_dist.jobs.submission import Request

    resources = resources_of(file.stem, nodes or "1", gpus_per_node, tasks_per_node, limit)
    _submit(asked, Request(resources, load_profile(profile)), max_parallel=jobs, dry_run=dry_run)


def _refuse_slurm_options(context: click.Context) -> None:
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in _OF_SLURM and context.params[parameter.name] is not None
    ]
    if given:
        raise click.UsageError(f"{', '.join(given)}: only with --slurm")


def _train_here(asked: _Asked, *, num_at_once: int, num_processes: int, dry_run: bool) -> None:
    check_unchanged(asked.runs, resolved_configs(asked.runs, num_processes))
    if dry_run:
        say("\n".join(_table(asked.runs)))
        return
    check_corpora(path for run in asked.runs for path in corpus_paths(run.config))
    check_places(asked.experiment, asked.file, asked.runs)
    freeze_experiment(asked.experiment, asked.file)
    from unipool_dist.experiment.local import LocalTrainings

    todo = [run for run in asked.runs if progress_of(run).state is not RunState.FINISHED]
    say(f"{asked.output}: {len(asked.runs) - len(todo)} of {len(asked.runs)} runs are done")
    with _display(asked.runs) as (tell, look):
        trainings = LocalTrainings(todo, num_at_once=num_at_once, num_processes=num_processes, tell=tell, look=look)
        trainings.train()
    say("\n".join(["", *_table(asked.runs)]))
    for run in trainings.failed:
        say(f"{run.name} failed; its log: {run.files.train_log}", err=True)
    if trainings.stopped_by is not None or (trainings.stopped and not trainings.failed):
        say("stopped: the same command continues", err=True)
        sys.exit(RESUME)
    if trainings.failed:
        sys.exit(1)


def _submit(asked: _Asked, request: Request, *, max_parallel: int | None, dry_run: bool) -> None:
    from unipool_dist.experiment import array
    from unipool_dist.jobs.submission import script_of

    check_unchanged(asked.runs, array.fewest_processes(asked.runs, request))
    todo = []
    for run in asked.runs:
        progress = progress_of(run)
        if progress.state is RunState.TRAINING:
            say(f"note: {run.name} is left out: {progress.detail} is training it", err=True)
        elif progress.state is not RunState.FINISHED:
            todo.append(run)
    if not todo:
        say(f"{asked.output}: there is nothing to submit")
        return
    check_places(asked.experiment, asked.file, asked.runs)
    prepared = array.prepare(asked.output, todo, request, max_parallel=max_parallel)
    check_corpora(path for run in todo for path in corpus_paths(run.config))
    for note in prepared.notes:
        say(f"note: {note}", err=True)
    for index, run in enumerate(todo):
        say(f"task {index}: {run.name}, {progress_of(run).describe()}", err=True)
    if dry_run:
        put(script_of(request, prepared))
        return
    freeze_experiment(asked.experiment, asked.file)
    tell_submitted(array.submit(request, prepared), prepared.folder.run_dir, array=True)


@contextmanager
def _display(runs: Sequence[Run]) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """Print a line for each event and, on a terminal, a bar of the steps of all runs; yield a function for each."""
    from tqdm import tqdm

    total = sum(run.config.train.steps for run in runs)
    with tqdm(total=total, unit=" steps", disable=not sys.stderr.isatty(), file=sys.stderr, leave=False) as bar:

        def tell(line: str) -> None:
            bar.clear()
            say(f"{time.strftime('%H:%M:%S')}  {line}")

        def look() -> None:
            if not bar.disable:
                beats = [read_heartbeat(run.directory) for run in runs]
                bar.update(sum(beat.step for beat in beats if beat is not None) - bar.n)

        if not bar.disable:
            look()
            bar.initial = bar.n  # done by earlier commands: no part of the speed that is shown
        yield tell, look


def _table(runs: Sequence[Run]) -> list[str]:
    rows = [("variant", "seed", "state", "validation loss", "time")]
    for variant in dict.fromkeys(run.variant for run in runs):
        rows += [_row(run, progress_of(run)) for run in runs if run.variant == variant]
    return aligned(rows, right=(1, 3, 4))


def _row(run: Run, progress: Progress) -> tuple[str, str, str, str, str]:
    minutes, seconds = divmod(round(progress.time_s or 0), 60)
    return (
        run.variant,
        str(run.seed),
        progress.describe(),
        "-" if progress.loss is None else f"{progress.loss:.4f}",
        "-" if progress.time_s is None else f"{minutes // 60}:{minutes % 60:02}:{seconds:02}",
    )


def _numbers(text: str | None) -> list[int]:
    try:
        return [int(number) for number in (text or "").split(",") if number]
    except ValueError:
        raise click.UsageError(f"--seeds {text}: give whole numbers, separated by commas") from None
