"""``heartbeat.json``: where a run is, rewritten after every step, for those who watch it from outside.

It is there after a crash too, so it tells at which step the run crashed, and how many steps a resume does anew.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from unipool_dist.base.reading import read_json, record_of
from unipool_dist.base.run_directory import RunDirectory

_LINE_BYTES = 512

State = Literal["training", "stopped", "finished"]


@dataclass(frozen=True)
class Heartbeat:
    """What the file says."""

    state: State
    """``training`` is also what a crash leaves behind."""
    step: int
    """The last step that was completed."""
    steps: int
    """Of the whole run."""
    resumed_from: int
    """The step of the checkpoint that this start of the run resumed from; 0: it began at step 1."""
    reason: str | None
    """Why the run was stopped."""
    time: float
    """Of writing, seconds since 1970."""


class HeartbeatWriter:
    """Writes the heartbeat of one start of a run; belongs to the process that holds the run's lock.

    Each write is one ``pwrite`` of one block in place, which costs microseconds and no metadata; it is not flushed to
    disk, so a power cut may lose the last ones.
    """

    def __init__(self, run_dir: Path, *, steps: int, resumed_from: int) -> None:
        self._steps, self._resumed_from = steps, resumed_from
        self._descriptor = os.open(RunDirectory(run_dir).heartbeat, os.O_WRONLY | os.O_CREAT, 0o644)
        self.write(resumed_from)

    def write(self, step: int, state: State = "training", reason: str | None = None) -> None:
        """``step`` is done. A file system that fails is no reason to end training."""
        beat = Heartbeat(state, step, self._steps, self._resumed_from, reason, round(time.time(), 3))
        line = json.dumps(asdict(beat)).encode()
        assert len(line) < _LINE_BYTES
        try:
            os.pwrite(self._descriptor, line.ljust(_LINE_BYTES - 1) + b"\n", 0)
        except OSError:
            return

    def close(self) -> None:
        """Close the file, so that other nodes see what was written last."""
        os.close(self._descriptor)


def read_heartbeat(run_dir: Path) -> Heartbeat | None:
    """The heartbeat of the run in ``run_dir``; ``None`` if it has not begun or the file cannot be read."""
    try:
        return record_of(Heartbeat, read_json(RunDirectory(run_dir).heartbeat))
    except (OSError, ValueError):
        return None
