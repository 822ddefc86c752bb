"""What has become of a run: from its own files, and from SLURM if it is there and still knows the job."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unipool_dist.base.reading import open_regular, parse_json
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.errors import UnipoolError
from unipool_dist.jobs.folder import JobFolder
from unipool_dist.jobs.slurm import ALIVE, SlurmError, show_array
from unipool_dist.run.attempts import LOCAL, Attempt, AttemptLog
from unipool_dist.run.heartbeat import Heartbeat, read_heartbeat

_TAIL_BYTES = 1 << 16
SILENT_S = 600.0
"""A run that has not completed a step for this long is said to be silent."""


@dataclass(frozen=True)
class RunStatus:
    """One run."""

    run: str
    job_id: str | None
    job_state: str
    """SLURM's word (PENDING, RUNNING, ...), or what the run's files tell: see :func:`_state`."""
    reason: str | None
    """Why it waits, stopped or failed."""
    nodes: str | None
    step: int | None
    steps: int | None
    loss: float | None
    tokens_per_s: float | None
    time_left_s: float | None
    """Until the last step, at the speed of the last logged steps; ``None`` unless it trains."""
    limit_left_s: float | None
    """Until the job's time limit."""
    last_checkpoint: int | None
    starts: int
    """How often tasks of this run were started."""
    restarts: int
    """How often SLURM has restarted the present job."""
    updated_s_ago: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def status_of(run_dir: Path) -> list[RunStatus]:
    """The status of the run in ``run_dir``; of every run if it is an array of runs. Asks SLURM once.

    Raises:
        UnipoolError: there is no run.
    """
    folder = JobFolder(run_dir)
    if not folder.exists():
        if not RunDirectory(run_dir).config.exists():
            raise UnipoolError(f"{run_dir} holds no run; give the run.dir of one, or the folder that `submit` named")
        return [_status(run_dir, None, {})]
    runs = folder.read().runs
    jobs = _ask_slurm(folder)
    submissions = folder.submissions()
    job_id = submissions[-1] if submissions else None
    statuses = []
    for index, name in enumerate(runs):
        array = len(runs) > 1 or name != "."
        fields = _task_fields(jobs, index) if array else (jobs[0] if jobs else {})
        label = f"{job_id}_{index}" if array and job_id else job_id
        statuses.append(_status(run_dir / name if name != "." else run_dir, label, fields))
    return statuses


def _ask_slurm(folder: JobFolder) -> list[dict[str, str]]:
    submissions = folder.submissions()
    if not submissions:
        return []
    try:
        return show_array(submissions[-1])
    except SlurmError:  # not on this machine, or it does not answer: the files say what they can
        return []


def _task_fields(jobs: list[dict[str, str]], index: int) -> dict[str, str]:
    """Of the array task; one record stands for all tasks that still wait, such as ``0,2-5%4``."""
    return next((fields for fields in jobs if index in _indices(fields.get("ArrayTaskId", ""))), {})


def _indices(listed: str) -> set[int]:
    indices: set[int] = set()
    for part in listed.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            indices.update(range(int(first), int(last or first) + 1))
    return indices


def _status(run_dir: Path, job_id: str | None, fields: Mapping[str, str]) -> RunStatus:
    beat = read_heartbeat(run_dir)
    attempts = AttemptLog.read(RunDirectory(run_dir).job).attempts
    last = _last_training_record(run_dir)
    state, reason = _state(fields, beat, attempts)
    checkpoints = CheckpointDirectory(run_dir).steps()
    return RunStatus(
        run=str(run_dir),
        job_id=job_id,
        job_state=state,
        reason=reason,
        nodes=fields.get("NodeList") if fields.get("NodeList") not in ("", "(null)") else None,
        step=beat.step if beat else None,
        steps=beat.steps if beat else None,
        loss=last.get("loss"),
        tokens_per_s=last.get("tokens_per_s"),
        time_left_s=_time_left(beat, last) if state in ("RUNNING", "training") else None,
        limit_left_s=_limit_left(fields) if state == "RUNNING" else None,
        last_checkpoint=checkpoints[-1] if checkpoints else None,
        starts=len(attempts),
        restarts=int(fields.get("Restarts", attempts[-1].restart if attempts else 0)),
        updated_s_ago=round(time.time() - beat.time, 1) if beat else None,
    )


def _state(fields: Mapping[str, str], beat: Heartbeat | None, attempts: Sequence[Attempt]) -> tuple[str, str | None]:
    """State and reason: of SLURM as long as it has not done with the job; else of the last start, if its end is written
    down; else of the heartbeat, unless that is older than the last start.

    Without SLURM: finished, stopped, failed, interrupted (SLURM ended it), training, silent (it was training and has
    not completed a step for long: crashed, cut off or stuck), or waiting (never started).
    """
    state = fields.get("JobState")
    if state is not None and state in ALIVE:
        reason = fields.get("Reason")
        return state, reason if state == "PENDING" and reason not in (None, "None") else None
    last = attempts[-1] if attempts else None
    if last is not None and last.ended is not None and (beat is None or beat.time <= last.ended):
        return _outcome(last, beat, state)
    if beat is not None and beat.state != "training" and (last is None or beat.time >= last.started):
        return beat.state, beat.reason
    if state is not None and state != "COMPLETED":
        return state, None
    if beat is None and last is None:
        return "waiting", None
    silent_s = time.time() - max(beat.time if beat else 0.0, last.started if last else 0.0)
    return ("training", None) if silent_s < SILENT_S else ("silent", f"no step for {silent_s / 60:.0f} minutes")


def _outcome(last: Attempt, beat: Heartbeat | None, state: str | None) -> tuple[str, str | None]:
    """State and reason of a start whose end is known; ``state`` is SLURM's, if it still knows the job."""
    if last.outcome == "stopped":
        is_of_last = beat is not None and beat.time >= last.started and beat.state == "stopped"
        return "stopped", beat.reason if beat is not None and is_of_last else last.detail
    if last.outcome == "interrupted":
        if last.job_id == LOCAL:
            return "interrupted", "a signal has ended it; the same `unipool-dist experiment` continues"
        if state is not None and state != "COMPLETED":
            return state, None
        return "interrupted", "SLURM has ended the job; submit --resume continues"
    return last.outcome or "failed", last.detail if last.outcome == "failed" else None


def _time_left(beat: Heartbeat | None, last: Mapping[str, Any]) -> float | None:
    if beat is None or "step_time_s" not in last:
        return None
    return round((beat.steps - beat.step) * float(last["step_time_s"]), 1)


def _limit_left(fields: Mapping[str, str]) -> float | None:
    """From SLURM's ``EndTime=2026-01-02T03:04:05``, local time."""
    try:
        end = time.mktime(time.strptime(fields.get("EndTime", ""), "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):  # Unknown
        return None
    return round(end - time.time(), 1)


def _last_training_record(run_dir: Path) -> dict[str, Any]:
    """The last logged step in ``metrics.jsonl``; reads only the end of the file."""
    try:
        with open_regular(RunDirectory(run_dir).metrics) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except (OSError, ValueError):
        return {}
    for line in reversed(lines[:-1]):  # the last is empty or still being written
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "loss" in record:
            return record
    return {}
