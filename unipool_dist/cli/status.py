"""``unipool-dist status``: the state of runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from unipool_dist.base.console import put, say
from unipool_dist.base.printable import aligned, printable
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.system_errors import explained
from unipool_dist.errors import UnipoolError
from unipool_dist.jobs.folder import JobFolder
from unipool_dist.jobs.status import RunStatus, status_of


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN ...]", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of objects, one for each run.")
def status(runs: tuple[Path, ...], as_json: bool) -> None:
    """Show state, step, loss, speed, time left, last checkpoint and restarts of runs.

    RUN is a run directory, or that of a sweep; without RUN, all in runs/, including those of experiments. Works for
    running and for ended runs, with SLURM and without it; SLURM's accounting is not needed.
    """
    found = list(runs) or _runs_in(Path("runs"))
    if not found:
        raise UnipoolError("there is no run in runs/; give the directory of one")
    statuses = []
    for run in found:
        try:
            statuses += status_of(run.resolve())
        except PermissionError as error:
            if runs:
                raise
            say(f"note: {run} is left out: {explained(error)}", err=True)
    if as_json:
        put(json.dumps([item.as_dict() for item in statuses], indent=1) + "\n")
        return
    header = ("run", "job", "state", "step", "loss", "tokens/s", "left", "limit", "checkpoint", "starts", "nodes")
    say("\n".join(aligned([header, *(_row(item) for item in statuses)], right=(3, 4, 5, 6, 7, 8, 9))))
    for item in statuses:
        if item.reason:
            say(f"{printable(item.run)}: {item.job_state}: {printable(item.reason)}")


def _runs_in(folder: Path, depth: int = 3) -> list[Path]:
    """Return the runs in ``folder``, also those of experiments (OUTPUT/VARIANT/seed-N); never looks inside a run."""
    found = []
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        job = JobFolder(entry)
        if RunDirectory(entry).config.exists():
            found.append(entry)
        elif job.exists():
            found.append(entry)
            try:
                of_job = [entry / name for name in job.read().runs]
            except PermissionError:  # of another user: reported when its state is read
                continue
            # The last array of an experiment has only what was not done when it was submitted.
            others = _runs_in(entry, depth - 1) if entry not in of_job and depth > 1 else []
            found += [run for run in others if run not in of_job and run != job.path]
        elif depth > 1:
            found += _runs_in(entry, depth - 1)
    return found


def _row(item: RunStatus) -> tuple[str, ...]:
    return (
        _short(item.run),
        item.job_id or "-",
        item.job_state,
        "-" if item.step is None else f"{item.step}/{item.steps}",
        "-" if item.loss is None else f"{item.loss:.4f}",
        "-" if item.tokens_per_s is None else f"{item.tokens_per_s:,.0f}",
        _duration(item.time_left_s),
        _duration(item.limit_left_s),
        "-" if item.last_checkpoint is None else str(item.last_checkpoint),
        str(item.starts) if item.starts else "-",
        item.nodes or "-",
    )


def _short(path: str) -> str:
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
