"""``job/attempts.jsonl``: every start of a run as a job, and how it ended as far as the batch script saw.

A start without an end was cut off: its node was lost, or SLURM killed the batch script. An end belongs to the start of
its job and restart: the batch script on a node that was cut off may write its end after SLURM has restarted the job.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unipool_dist.base.console import say
from unipool_dist.base.reading import parse_json, read_bytes, record_of
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.stopping import StopReason, with_reason
from unipool_dist.run.state import RunState

LOCAL = "local"
"""The job of starts that `unipool-dist experiment` makes on this machine."""


@dataclass
class Attempt:
    """One start of the run's tasks."""

    job_id: str
    restart: int
    """SLURM_RESTART_COUNT: how often SLURM has restarted this job."""
    nodes: list[str]
    num_tasks: int
    step_before: int
    """Last step that had been completed when it started."""
    started: float
    """Seconds since 1970."""
    ended: float | None = None
    outcome: RunState | None = None
    """``None``: running, or cut off."""
    status: int | None = None
    """Exit status of the tasks, as srun gives it."""
    step: int | None = None
    """Last step completed when it ended; ``None`` if training had not begun."""
    detail: str | None = None
    """Why it was stopped, or how it failed, in words."""
    reason: StopReason | None = None
    """Why it was stopped."""
    checkpoint_before: int = 0
    """Step of the newest checkpoint when it started; 0: there was none."""


@dataclass
class AttemptLog:
    """The attempts of the run whose job folder is ``folder``, oldest first.

    A failing file system is no reason to end a run, or not to requeue it: what cannot be written is reported on stderr.
    """

    folder: Path
    attempts: list[Attempt] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> AttemptLog:
        """Read the attempts; lines that a crash cut short, or that make no sense, are ignored.

        Raises:
            OSError: the file is there and cannot be read, or is not a text file.
        """
        log = cls(folder)
        path = folder / RunDirectory.attempts.name
        try:
            text = read_bytes(path).decode("utf-8", "replace") if path.exists() else ""
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error), str(path)) from None
        for line in text.splitlines():
            try:
                event: dict[str, Any] = parse_json(line)
                kind = event.pop("event")
                if kind == "start":
                    log.attempts.append(record_of(Attempt, event))
                else:
                    log._ended(event)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        return log

    def start(self, attempt: Attempt) -> None:
        """Record that ``attempt`` starts."""
        self.attempts.append(attempt)
        unset = ("ended", "outcome", "status", "step", "detail", "reason")
        self._append({"event": "start"} | {k: v for k, v in asdict(attempt).items() if k not in unset})

    def end(self, **fields: Any) -> None:
        """Record how the attempt that was started last through this object has ended."""
        last = self.attempts[-1]
        for name, value in fields.items():
            setattr(last, name, value)
        self._append({"event": "end", "job_id": last.job_id, "restart": last.restart} | fields)

    def is_superseded(self) -> bool:
        """Return whether SLURM has restarted the job of the last attempt here, as far as the file can be read."""
        last = self.attempts[-1]
        try:
            written = AttemptLog.read(self.folder).attempts
        except OSError:
            return False
        return any(attempt.job_id == last.job_id and attempt.restart > last.restart for attempt in written)

    def _ended(self, event: dict[str, Any]) -> None:
        """Record an end: without a job, as earlier versions wrote it, it is that of the last start."""
        key = event.pop("job_id", None), event.pop("restart", None)
        ends = [i for i, item in enumerate(self.attempts) if key in ((None, None), (item.job_id, item.restart))]
        if event.get("outcome") == RunState.STOPPED:
            event = with_reason(event, text="detail")
        if ends:
            self.attempts[ends[-1]] = record_of(Attempt, vars(self.attempts[ends[-1]]) | event)

    def _append(self, event: dict[str, Any]) -> None:
        path = self.folder / RunDirectory.attempts.name
        try:
            with open(path, "a", encoding="utf-8", opener=_private) as file:
                file.write("\n" * self._last_line_is_cut() + json.dumps(event) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            say(
                f"warning: {path} cannot be written: {error}. The run continues, but this {event['event']} is not "
                "counted in deciding whether to start it again, and `unipool-dist status` knows nothing of it",
                err=True,
            )

    def _last_line_is_cut(self) -> bool:
        path = self.folder / RunDirectory.attempts.name
        return path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")


def _private(path: str, flags: int) -> int:
    """Open a file that, if new, only the user can read, as a start's end may quote the run's output. For ``open``."""
    return os.open(path, flags, 0o600)
