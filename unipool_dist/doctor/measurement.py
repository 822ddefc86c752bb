"""The form of every measurement: briefed by rank 0, measured on every rank, judged on rank 0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from unipool_dist.doctor.findings import Check
from unipool_dist.errors import UnipoolError

M = TypeVar("M")


class NotMeasuredError(UnipoolError):
    """A probe cannot be made; the message says why, and becomes a warning."""


class Probe(ABC, Generic[M]):
    """A measurement and its judgement."""

    name: str
    measured: Any
    """The type that :meth:`measure` returns, a dataclass or a union of such; it travels as JSON."""
    communicates: bool = False
    """Whether :meth:`measure` uses process groups; if it fails, no other that does can be trusted."""

    def brief(self) -> str:
        """Return on rank 0, first, what every rank is to know. May raise :class:`NotMeasuredError`."""
        return ""

    @abstractmethod
    def measure(self, brief: str) -> M:
        """Measure on every rank. An error is reported to rank 0 and becomes a failed check."""

    def advice(self) -> str:
        """Return on rank 0 what to do if the probe itself fails."""
        return "see the reason given; the other checks may tell more"

    def so_far(self) -> list[Check]:
        """Return on rank 0 the findings if nothing more is measured. Empty if nothing has been."""
        return []

    @abstractmethod
    def judge(self, measured: Sequence[M]) -> list[Check]:
        """Return on rank 0 the findings, from the measurements of every rank."""
