"""In which state a run is: the one place that says so, from the files in its directory and from SLURM."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.run.attempts import LOCAL, Attempt, AttemptLog
from unipool_dist.run.heartbeat import Heartbeat, read_heartbeat
from unipool_dist.run.state import RunState

SILENT_S = 600.0
"""A run that has not completed a step for this long is silent."""


@dataclass(frozen=True)
class SlurmWord:
    """What SLURM says of the job of a run."""

    state: str
    """PENDING, RUNNING, ..."""
    is_over: bool
    """Whether the job has ended."""
    reason: str | None = None
    """Why it waits."""


@dataclass(frozen=True)
class Condition:
    """A run as its files show it."""

    state: RunState
    detail: str | None
    """Why it waits, stopped, is silent, was interrupted or failed."""
    word: str
    """The state for users: SLURM's word where that decided, else that of ``state``."""
    beat: Heartbeat | None
    attempts: Sequence[Attempt]
    checkpoint: int | None
    """Step of the newest checkpoint."""


def read_condition(run_dir: Path, slurm: SlurmWord | None = None) -> Condition:
    """Return the condition of the run in ``run_dir`` now.

    SLURM's word counts as long as the job is not over; then the last start, if its end is recorded; then the
    heartbeat, unless it is older than the last start. A run that is done stays finished whatever a later start does.

    Raises:
        OSError: the file of its attempts is there and cannot be read.
    """
    beat = read_heartbeat(run_dir)
    attempts = AttemptLog.read(RunDirectory(run_dir).job).attempts
    checkpoint = max(CheckpointDirectory(run_dir).steps(), default=None)
    last = attempts[-1] if attempts else None
    state, detail, word = _judge(beat, last, checkpoint, slurm)
    return Condition(state, detail, word or state.value, beat, attempts, checkpoint)


def _judge(
    beat: Heartbeat | None, last: Attempt | None, checkpoint: int | None, slurm: SlurmWord | None
) -> tuple[RunState, str | None, str | None]:
    """Return state, detail and SLURM's word if it decided."""
    if slurm is not None and not slurm.is_over:
        state = RunState.WAITING if slurm.state == "PENDING" else RunState.TRAINING
        return state, slurm.reason if state is RunState.WAITING else None, slurm.state
    under_way = last is not None and last.outcome is None and (beat is None or beat.time < last.started)
    if beat is not None and _is_done(beat, checkpoint) and not under_way:
        return RunState.FINISHED, None, None
    if last is not None and last.outcome is not None and (beat is None or beat.time <= (last.ended or beat.time)):
        return _how_it_ended(last, last.outcome, beat, slurm)
    if beat is not None and beat.state.is_end and not under_way:
        return beat.state, beat.detail, None
    if slurm is not None and slurm.state != "COMPLETED":
        return RunState.INTERRUPTED, None, slurm.state
    if beat is None and last is None:
        return RunState.WAITING, None, None
    silent_s = time.time() - max(beat.time if beat else 0.0, last.started if last else 0.0)
    if silent_s < SILENT_S:
        return RunState.TRAINING, None, None
    return RunState.SILENT, f"no step for {silent_s / 60:.0f} minutes", None


def _is_done(beat: Heartbeat, checkpoint: int | None) -> bool:
    """Return whether the last step is done and saved."""
    return beat.step >= beat.steps and (beat.state is RunState.FINISHED or checkpoint == beat.steps)


def _how_it_ended(
    last: Attempt, outcome: RunState, beat: Heartbeat | None, slurm: SlurmWord | None
) -> tuple[RunState, str | None, str | None]:
    """Return the same for a start whose end is recorded."""
    if outcome is RunState.STOPPED:
        is_of_last = beat is not None and beat.time >= last.started and beat.state is RunState.STOPPED
        return outcome, beat.detail if beat is not None and is_of_last else last.detail, None
    if outcome is not RunState.INTERRUPTED:
        return outcome, last.detail if outcome is RunState.FAILED else None, None
    if last.job_id == LOCAL:
        return outcome, "a signal has ended it; the same `unipool-dist experiment` continues", None
    if slurm is not None and slurm.state != "COMPLETED":
        return outcome, None, slurm.state
    return outcome, "SLURM has ended the job; submit --resume continues", None
