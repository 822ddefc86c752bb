"""A run is handed over: a job that SLURM has started anew elsewhere asks its former start, which still trains.

SLURM takes a node for lost when its slurmd is dead, though the tasks there may be well. Nobody ends these, and they
hold the run's lock.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from unipool_dist.topology.environment import Environment

HANDOVER_FILE = ".handover"
_LOOK_EVERY_S = 2.0  # file systems of clusters are slow, and steps may be quick


class Handover:
    """Between the starts of one SLURM job, through a file in ``run_dir``, by rank 0 of each; without SLURM: nothing.

    Whatever the file system answers, neither start fails of it: one that is not asked goes on as before.
    """

    def __init__(self, run_dir: Path, environment: Environment) -> None:
        self._path = run_dir / HANDOVER_FILE
        self._job_id, self._restarts = environment.job_id, environment.restarts
        self._looked_at, self._asked = float("-inf"), False

    def ask(self) -> None:
        """By a later start, while the lock is held: let a former one save, and end."""
        if self._job_id is None or not self._restarts:
            return
        aside = self._path.with_suffix(".new")
        try:
            aside.write_text(json.dumps({"slurm_job": self._job_id, "restart": self._restarts}) + "\n")
            aside.replace(self._path)
        except OSError:
            return

    def is_asked(self) -> bool:
        """By who holds the lock, as often as it likes: whether a later start of its job waits for the run."""
        now = time.monotonic()
        if self._job_id is not None and now - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at, self._asked = now, self._look()
        return self._asked

    def settle(self) -> None:
        """By who has got the lock: the request is past."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            return

    def _look(self) -> bool:
        try:
            asked = json.loads(self._path.read_text())
            return bool(asked["slurm_job"] == self._job_id and asked["restart"] > self._restarts)
        except (OSError, ValueError, KeyError, TypeError):
            return False
