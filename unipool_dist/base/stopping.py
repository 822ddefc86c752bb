"""Why a run is asked to save and stop: the reasons, and how they are written into the files of a run."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class StopReason(StrEnum):
    """A reason to save and stop. If ranks have different ones, the last in this order is the reason of the run."""

    UNKNOWN = "unknown"
    """Written by an earlier version, in words that it alone knew."""
    CALLBACK = "callback"
    """By a callback of the user's own, which would stop the next start too."""
    TIME_LIMIT = "time_limit"
    HANGUP = "hangup"
    WARNED = "warned"
    """By SIGUSR1, which SLURM sends before the time limit of a job."""
    BY_HAND = "by_hand"
    """By SIGINT: save, and do not start again."""
    TERMINATED = "terminated"
    """By SIGTERM, which SLURM sends to preempt a job."""
    HANDED_OVER = "handed_over"
    """To a later start of the same job, which waits for the run."""

    @property
    def is_final(self) -> bool:
        """Whether a job that stopped for this reason is not to be started again."""
        return self in (StopReason.BY_HAND, StopReason.CALLBACK)


OF_SIGNAL = {
    signal.SIGHUP: StopReason.HANGUP,
    signal.SIGUSR1: StopReason.WARNED,
    signal.SIGINT: StopReason.BY_HAND,
    signal.SIGTERM: StopReason.TERMINATED,
}
_EARLIER_TEXTS = {
    **{f"{number.name} on a rank": reason for number, reason in OF_SIGNAL.items()},
    "the time limit run.time_limit_s=": StopReason.TIME_LIMIT,
    "SLURM has ": StopReason.HANDED_OVER,
}
"""How texts begin that earlier versions wrote in place of a reason."""


@dataclass(frozen=True)
class Stop:
    """A reason to stop, with what there is to say of it."""

    reason: StopReason
    detail: str

    def __str__(self) -> str:
        return self.detail


def with_reason(fields: Mapping[str, Any], *, text: str) -> dict[str, Any]:
    """Return ``fields`` of a record with ``reason`` and ``detail``, also if an earlier version wrote the record.

    Args:
        text: name of the field in which earlier versions put the reason in words.
    """
    said = fields.get(text)
    if not isinstance(said, str) or fields.get("reason") in [*StopReason]:
        return {**fields}
    known = (reason for start, reason in _EARLIER_TEXTS.items() if said.startswith(start))
    return {**fields, "reason": next(known, StopReason.UNKNOWN), "detail": said}
