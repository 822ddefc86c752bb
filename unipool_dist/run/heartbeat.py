"""``heartbeat.json``: the progress of a run, rewritten after every step, for observers outside.

It survives a crash, so it shows at which step the run crashed, and how many steps a resume repeats.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from unipool_dist.base.reading import read_json, record_of
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.stopping import Stop, StopReason, with_reason
from unipool_dist.run.state import RunState

_LINE_BYTES = 512


@dataclass(frozen=True)
class Heartbeat:
    """The content of the file."""

    state: RunState
    """``training``, ``stopped`` or ``finished``; ``training`` is also what a crash leaves behind."""
    step: int
    """The last step that was completed."""
    steps: int
    """Steps of the whole run."""
    resumed_from: int
    """The step of the checkpoint that this start of the run resumed from; 0: it began at step 1."""
    reason: StopReason | None
    """Why the run was stopped."""
    time: float
    """Time of writing, seconds since 1970."""
    detail: str | None = None
    """The reason in words."""


class HeartbeatWriter:
    """The writer of one start's heartbeat; belongs to the process that holds the run's lock.

    Each write is one ``pwrite`` of one block in place, which costs microseconds and no metadata; it is not flushed to
    disk, so a power cut may lose the last ones.
    """

    def __init__(self, run_dir: Path, *, steps: int, resumed_from: int) -> None:
        self._steps, self._resumed_from, self._state = steps, resumed_from, RunState.TRAINING
        self._descriptor = os.open(RunDirectory(run_dir).heartbeat, os.O_WRONLY | os.O_CREAT, 0o644)
        self.write(resumed_from)

    def write(self, step: int, state: RunState = RunState.TRAINING, stop: Stop | None = None) -> None:
        """Record that ``step`` is done. An error of the file system does not end training."""
        assert state.may_follow(self._state), (self._state, state)
        self._state = state
        reason, detail = (stop.reason, stop.detail) if stop else (None, None)
        beat = Heartbeat(state, step, self._steps, self._resumed_from, reason, round(time.time(), 3), detail)
        try:
            os.pwrite(self._descriptor, _line(beat), 0)
        except OSError:
            return

    def close(self) -> None:
        """Close the file, so that other nodes see what was written last."""
        os.close(self._descriptor)


def _line(beat: Heartbeat) -> bytes:
    """Return ``beat`` as one line of ``_LINE_BYTES``, with as much of the detail as there is room for."""
    fields = asdict(beat)
    if beat.detail is None:
        del fields["detail"]  # which earlier versions do not know
    line = json.dumps(fields).encode()
    if len(line) < _LINE_BYTES:
        return line.ljust(_LINE_BYTES - 1) + b"\n"
    assert beat.detail, line
    return _line(replace(beat, detail=beat.detail[: len(beat.detail) // 2]))


def read_heartbeat(run_dir: Path) -> Heartbeat | None:
    """Read the heartbeat of the run in ``run_dir``; ``None`` if it has not begun or the file cannot be read."""
    try:
        return record_of(Heartbeat, with_reason(read_json(RunDirectory(run_dir).heartbeat), text="reason"))
    except (OSError, ValueError, AttributeError):
        return None
