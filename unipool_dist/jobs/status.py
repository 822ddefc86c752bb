"""The state of a run: from its own files, and from SLURM if it is installed and still knows the job."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unipool_dist.base.reading import open_regular, parse_json
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.errors import UnipoolError
from unipool_dist.jobs.folder import JobFolder
from unipool_dist.jobs.slurm import ALIVE, SlurmError, show_array
from unipool_dist.run.condition import SlurmWord, read_condition
from unipool_dist.run.heartbeat import Heartbeat
from unipool_dist.run.state import RunState

_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class RunStatus:
    """The status of one run."""

    run: str
    job_id: str | None
    job_state: str
    """SLURM's word (PENDING, RUNNING, ...) or a :class:`~unipool_dist.run.state.RunState`."""
    reason: str | None
    """Why it waits, stopped or failed."""
    nodes: str | None
    step: int | None
    steps: int | None
    loss: float | None
    tokens_per_s: float | None
    time_left_s: float | None
    """Time until the last step, at the speed of the last logged steps; ``None`` unless it trains."""
    limit_left_s: float | None
    """Time until the job's time limit."""
    last_checkpoint: int | None
    starts: int
    """How often tasks of this run were started."""
    restarts: int
    """How often SLURM has restarted the present job."""
    updated_s_ago: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def status_of(run_dir: Path) -> list[RunStatus]:
    """Return the status of the run in ``run_dir``; of every run if it is an array of runs. Asks SLURM once.

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
    """Return the fields of the array task; one record covers all tasks that still wait, such as ``0,2-5%4``."""
    return next((fields for fields in jobs if index in _indices(fields.get("ArrayTaskId", ""))), {})


def _indices(listed: str) -> set[int]:
    indices: set[int] = set()
    for part in listed.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            indices.update(range(int(first), int(last or first) + 1))
    return indices


def _status(run_dir: Path, job_id: str | None, fields: Mapping[str, str]) -> RunStatus:
    condition = read_condition(run_dir, _slurm_word(fields))
    beat, attempts, word = condition.beat, condition.attempts, condition.word
    last = _last_training_record(run_dir)
    return RunStatus(
        run=str(run_dir),
        job_id=job_id,
        job_state=word,
        reason=condition.detail,
        nodes=fields.get("NodeList") if fields.get("NodeList") not in ("", "(null)") else None,
        step=beat.step if beat else None,
        steps=beat.steps if beat else None,
        loss=last.get("loss"),
        tokens_per_s=last.get("tokens_per_s"),
        time_left_s=_time_left(beat, last) if word in ("RUNNING", RunState.TRAINING) else None,
        limit_left_s=_limit_left(fields) if word == "RUNNING" else None,
        last_checkpoint=condition.checkpoint,
        starts=len(attempts),
        restarts=int(fields.get("Restarts", attempts[-1].restart if attempts else 0)),
        updated_s_ago=round(time.time() - beat.time, 1) if beat else None,
    )


def _slurm_word(fields: Mapping[str, str]) -> SlurmWord | None:
    state, reason = fields.get("JobState"), fields.get("Reason")
    if state is None:
        return None
    return SlurmWord(state, state not in ALIVE, None if reason == "None" else reason)


def _time_left(beat: Heartbeat | None, last: Mapping[str, Any]) -> float | None:
    if beat is None or "step_time_s" not in last:
        return None
    return round((beat.steps - beat.step) * float(last["step_time_s"]), 1)


def _limit_left(fields: Mapping[str, str]) -> float | None:
    """Return the time left by SLURM's ``EndTime=2026-01-02T03:04:05``, local time."""
    try:
        end = time.mktime(time.strptime(fields.get("EndTime", ""), "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):  # Unknown
        return None
    return round(end - time.time(), 1)


def _last_training_record(run_dir: Path) -> dict[str, Any]:
    """Return the last logged step in ``metrics.jsonl``; reads only the end of the file."""
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
