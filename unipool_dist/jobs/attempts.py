"""``job/attempts.jsonl``: every start of a run as a job, and how it ended as far as the batch script saw.

A start without an end was cut off: its node was lost, or SLURM killed the batch script.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

ATTEMPTS_FILE = "attempts.jsonl"

Outcome = Literal["finished", "stopped", "failed", "interrupted"]


@dataclass
class Attempt:
    """One start of the run's tasks."""

    job_id: str
    restart: int
    """SLURM_RESTART_COUNT: how often SLURM has started this job anew."""
    nodes: list[str]
    num_tasks: int
    step_before: int
    """Last step that had been completed when it started."""
    started: float
    """Seconds since 1970."""
    ended: float | None = None
    outcome: Outcome | None = None
    """``interrupted``: SLURM was ending the job. ``None``: running, or cut off."""
    status: int | None = None
    """Exit status of the tasks, as srun gives it."""
    step: int | None = None
    """Last step completed when it ended; ``None`` if it had not come to training."""
    detail: str | None = None


@dataclass
class AttemptLog:
    """The attempts of the run whose job folder is ``folder``. One batch script at a time writes."""

    folder: Path
    attempts: list[Attempt] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> AttemptLog:
        """What there is; lines that a crash cut short are ignored."""
        log = cls(folder)
        path = folder / ATTEMPTS_FILE
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                event: dict[str, Any] = json.loads(line)
                kind = event.pop("event")
                if kind == "start":
                    log.attempts.append(Attempt(**event))
                elif log.attempts:
                    for name, value in event.items():
                        setattr(log.attempts[-1], name, value)
            except (ValueError, KeyError, TypeError):
                continue
        return log

    def start(self, attempt: Attempt) -> None:
        """Write down that ``attempt`` starts."""
        self.attempts.append(attempt)
        unset = ("ended", "outcome", "status", "step", "detail")
        self._append({"event": "start"} | {k: v for k, v in asdict(attempt).items() if k not in unset})

    def end(self, **fields: Any) -> None:
        """Write down how the last attempt ended."""
        for name, value in fields.items():
            setattr(self.attempts[-1], name, value)
        self._append({"event": "end"} | fields)

    def _append(self, event: dict[str, Any]) -> None:
        with (self.folder / ATTEMPTS_FILE).open("a", encoding="utf-8") as file:
            file.write("\n" * self._last_line_is_cut() + json.dumps(event) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _last_line_is_cut(self) -> bool:
        path = self.folder / ATTEMPTS_FILE
        return path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
