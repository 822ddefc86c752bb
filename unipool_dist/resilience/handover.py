"""Handover of a run: a job that SLURM has restarted elsewhere asks its previous start, which still trains, to stop.

SLURM takes a node for lost when its slurmd is dead, though the tasks there may be running. Nobody ends these, and they
hold the run's lock.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

from unipool_dist.base.belongings import ForeignError, foreign, remove
from unipool_dist.base.forms import json_object
from unipool_dist.base.reading import read_json
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.writing import replace_text

_REQUEST = json_object("slurm_job", "restart")
_LOOK_EVERY_S = 2.0  # file systems of clusters are slow, and steps may be quick


class Handover:
    """Requests between the starts of one SLURM job, through a file in ``run_dir``; without SLURM it does nothing.

    Args:
        job_id: SLURM's number of the job.
        restarts: how often SLURM had restarted it when this start began.

    An error of the file system ends neither start: one that was not asked continues as before.
    """

    def __init__(self, run_dir: Path, job_id: str | None, restarts: int) -> None:
        self._path, self._job_id, self._restarts = RunDirectory(run_dir).handover, job_id, restarts
        self._looked_at, self._asked = float("-inf"), False

    def ask(self) -> None:
        """Ask a previous start to save and end. Called repeatedly by the new start while the lock is held."""
        if self._job_id is None or not self._restarts or self._asking() >= self._restarts:
            return
        if foreign(self._path, _REQUEST):
            return
        with suppress(OSError):
            replace_text(self._path, json.dumps({"slurm_job": self._job_id, "restart": self._restarts}) + "\n")

    def is_asked(self) -> bool:
        """Return whether a newer start of this job has asked for the run. Called by the lock holder; cheap to poll."""
        now = time.monotonic()
        if self._job_id is not None and now - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at, self._asked = now, self._asking() > self._restarts
        return self._asked

    def settle(self) -> None:
        """Withdraw this start's request and older ones. Called once the lock is taken."""
        if self._asking() <= self._restarts:
            with suppress(OSError, ForeignError):
                remove(self._path, _REQUEST)

    def _asking(self) -> int:
        """Return which start of this job asks; 0 for none."""
        try:
            asked = read_json(self._path)
            return int(asked["restart"]) if asked["slurm_job"] == self._job_id else 0
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return 0
