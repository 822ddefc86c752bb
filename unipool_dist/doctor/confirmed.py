"""Measuring again what looks slow, before anybody is blamed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Generic

from unipool_dist.doctor.checks import Check
from unipool_dist.doctor.probe import M, Probe

ROUNDS = 3


class Confirmed(Probe[M], Generic[M]):
    """``probe``, repeated while it finds something, up to ``ROUNDS`` times; reported is the best of each rank.

    So what is named was slow in every round; what disturbed one round only is not. Should a further round not be
    possible, because time is up or it fails, those before it are what is reported.

    Args:
        better: the better of two measurements of one rank.
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
