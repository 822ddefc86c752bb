"""Measure again what looks slow, before it is reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Generic

from unipool_dist.doctor.findings import Check
from unipool_dist.doctor.measurement import M, Probe

ROUNDS = 3


class Confirmed(Probe[M], Generic[M]):
    """A probe that repeats ``probe`` while it finds something, and reports the best of each rank.

    There are up to ``ROUNDS`` rounds. A rank that is named was slow in every round; a disturbance of one round is not
    reported. If a further round is not possible, because time is up or it fails, the earlier ones are reported.

    Args:
        better: returns the better of two measurements of one rank.
    """

    def __init__(self, probe: Probe[M], better: Callable[[M, M], M]) -> None:
        self.name, self.measured, self.communicates = probe.name, probe.measured, probe.communicates
        self._probe, self._better = probe, better
        self._rounds: list[Sequence[M]] = []
        self._checks: list[Check] = []
        self.settled = True
        """On rank 0: whether no more rounds are needed."""

    def brief(self) -> str:
        return self._probe.brief()

    def measure(self, brief: str) -> M:
        return self._probe.measure(brief)

    def advice(self) -> str:
        return self._probe.advice()

    def so_far(self) -> list[Check]:
        self.settled = True
        return self._checks

    def judge(self, measured: Sequence[M]) -> list[Check]:
        self._rounds.append(measured)
        self._checks = self._probe.judge([reduce(self._better, of_rank) for of_rank in zip(*self._rounds, strict=True)])
        self.settled = len(self._rounds) == ROUNDS or all(check.status == "ok" for check in self._checks)
        return self._checks if self.settled else []
