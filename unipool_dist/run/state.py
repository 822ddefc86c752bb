"""The states of a run as seen from outside, and which may follow which."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class RunState(StrEnum):
    """What a run is doing, or how its last start ended."""

    WAITING = "waiting"
    """Never started, or its job is in the queue."""
    TRAINING = "training"
    """A start is under way. A crash leaves this state behind too, until the run has been silent for long."""
    SILENT = "silent"
    """It was training and has not completed a step for long: crashed, cut off or stuck."""
    STOPPED = "stopped"
    """Asked to stop, with its state saved."""
    INTERRUPTED = "interrupted"
    """Ended from outside, by SLURM or a second signal."""
    FAILED = "failed"
    FINISHED = "finished"
    """All steps are done and saved."""

    @property
    def is_end(self) -> bool:
        """Whether a start of the run can end in this state."""
        return self in _ENDS

    def may_follow(self, before: RunState) -> bool:
        """Return whether a run that was in state ``before`` can be seen in this one next, or still."""
        return self is before or self in _NEXT[before]


_ENDS = frozenset({RunState.STOPPED, RunState.INTERRUPTED, RunState.FAILED, RunState.FINISHED})
_STARTS = frozenset({RunState.WAITING, RunState.TRAINING})
_NEXT: Mapping[RunState, frozenset[RunState]] = {
    RunState.WAITING: frozenset({RunState.TRAINING}),
    RunState.TRAINING: frozenset({RunState.WAITING, RunState.SILENT}) | _ENDS,  # waiting: SLURM has requeued the job
    RunState.SILENT: _STARTS | _ENDS,
    RunState.STOPPED: _STARTS | {RunState.INTERRUPTED},  # the batch script is ended by what has stopped its tasks
    RunState.INTERRUPTED: _STARTS,
    RunState.FAILED: _STARTS,
    RunState.FINISHED: _STARTS,  # it is continued with a larger train.steps
}
