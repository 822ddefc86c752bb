"""The form of everything that is measured: briefed by rank 0, measured on every rank, judged on rank 0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from unipool_dist.doctor.checks import Check
from unipool_dist.errors import UnipoolError

M = TypeVar("M")


class NotMeasuredError(UnipoolError):
    """A probe has no ground to stand on; the message says why, and becomes a warning."""


class Probe(ABC, Generic[M]):
    """One measurement, and what follows from it."""

    name: str
    measured: Any
    """The type that :meth:`measure` returns, a dataclass or a union of such; it travels as JSON."""
    communicates: bool = False
    """Whether :meth:`measure` uses process groups; if it fails, no other that does can be trusted."""

    def brief(self) -> str:
        """On rank 0, first: what every rank is told. May raise :class:`NotMeasuredError`."""
        return ""

    @abstractmethod
    def measure(self, brief: str) -> M:
        """On every rank. What it raises is told to rank 0 and becomes a failed check."""

    def advice(self) -> str:
        """On rank 0: what to do if the probe itself fails."""
        return "see the reason given; the other checks may tell more"

    def so_far(self) -> list[Check]:
        """On rank 0: the findings, if what has been measured already is to be all. Empty if nothing has."""
        return []

    @abstractmethod
    def judge(self, measured: Sequence[M]) -> list[Check]:
        """On rank 0: the findings, from what every rank has measured."""
