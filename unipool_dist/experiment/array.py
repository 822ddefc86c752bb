"""The runs of an experiment as one job array, whose job folder is that of the experiment's directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from unipool_dist.config import Config
from unipool_dist.experiment.planned import Run, naming_variant
from unipool_dist.jobs.folder import JobFolder
from unipool_dist.jobs.submission import Prepared, Request, check_idle, prepare_array, write_over
from unipool_dist.jobs.submission import submit as hand_in
from unipool_dist.jobs.task_layout import choose_layout


def fewest_processes(runs: Sequence[Run], request: Request) -> Mapping[str, Config]:
    """Return the configurations by the runs' names, resolved for the fewest nodes that are asked for.

    Raises:
        UnipoolError: one does not fit them.
    """
    nodes = [f"node {i}" for i in range(request.resources.node_range[0])]
    resolved = {}
    for run in runs:
        with naming_variant(run.variant):
            resolved[run.name] = choose_layout(run.config, nodes, request.resources.tasks_per_node).plan.config
    return resolved


def prepare(output: Path, runs: Sequence[Run], request: Request, *, max_parallel: int | None) -> Prepared:
    """Prepare one task for each of ``runs``; nothing is written yet.

    Raises:
        UnipoolError: an earlier array of the experiment has not ended, or a run fits no number of nodes asked for.
    """
    folder = JobFolder(output.resolve())
    if folder.exists():
        check_idle(folder)  # its tasks read the job folder that is about to be rewritten
    return prepare_array(request, folder, {run.name: run.config for run in runs}, max_parallel=max_parallel)


def submit(request: Request, prepared: Prepared) -> str:
    """Freeze the runs and hand the array to SLURM; return the job's id.

    Raises:
        SlurmError: SLURM refuses it; what was frozen stays, and is frozen again by the next submission.
    """
    write_over(request, prepared)
    return hand_in(prepared.folder)
