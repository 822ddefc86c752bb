"""Offsets between the clocks of the nodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from unipool_dist.base.units import seconds
from unipool_dist.doctor.findings import Check
from unipool_dist.doctor.judgement import MAX_CLOCK_SKEW_S, clock_offset
from unipool_dist.doctor.measurement import Probe
from unipool_dist.doctor.roster import Roster

_ROUND_TRIPS = 10


@dataclass(frozen=True)
class Offsets:
    """On rank 0, by node: offset of its clock from rank 0's and the uncertainty of that, in seconds."""

    of_node: dict[str, tuple[float, float]]


class Clocks(Probe[Offsets]):
    """Rank 0 asks the first rank of every other node for the time, several times.

    Collectives: point-to-point messages of 8 bytes over ``group`` (gloo, all ranks), node by node.
    """

    name = "clock skew"
    measured = Offsets
    communicates = True

    def __init__(self, group: dist.ProcessGroup | None, rank: int, roster: Roster) -> None:
        self._group, self._rank, self._roster = group, rank, roster

    def measure(self, brief: str) -> Offsets:
        others = self._roster.leaders[1:]
        if self._rank in others:
            self._answer()
        if self._rank != 0:
            return Offsets({})
        return Offsets({self._roster.node_of[rank]: self._ask(rank) for rank in others})

    def _ask(self, rank: int) -> tuple[float, float]:
        answer = torch.zeros(1, dtype=torch.float64)
        samples = []
        for _ in range(_ROUND_TRIPS):
            asked = time.time()
            dist.send(answer, rank, self._group)
            dist.recv(answer, rank, self._group)
            samples.append((asked, float(answer), time.time()))
        return clock_offset(samples)

    def _answer(self) -> None:
        message = torch.zeros(1, dtype=torch.float64)
        for _ in range(_ROUND_TRIPS):
            dist.recv(message, 0, self._group)
            message[0] = time.time()
            dist.send(message, 0, self._group)

    def judge(self, measured: Sequence[Offsets]) -> list[Check]:
        return [judge_clocks(measured[0].of_node)]


def judge_clocks(of_node: dict[str, tuple[float, float]]) -> Check:
    """Judge offset and uncertainty of every node but rank 0's. Pure."""
    expected = f"within {seconds(MAX_CLOCK_SKEW_S)}"
    if not of_node:
        return Check("clock skew", "ok", "one node, one clock", expected, value=0.0, unit="s")
    node = max(of_node, key=lambda name: abs(of_node[name][0]))
    offset, uncertainty = of_node[node]
    off = [name for name, (value, _) in of_node.items() if abs(value) > MAX_CLOCK_SKEW_S]
    vague = [name for name, (_, value) in of_node.items() if value > MAX_CLOCK_SKEW_S]
    advice = ""
    if off:
        shown = ", ".join(f"{name} {of_node[name][0]:+.1f} s" for name in off)
        advice = f"against rank 0: {shown}; file times and logs will mislead: start a time service (chrony, ntpd) there"
    elif vague:
        advice = f"{', '.join(vague)} answers so slowly that its clock cannot be measured; see the network checks"
    return Check(
        "clock skew",
        "warn" if advice else "ok",
        f"{seconds(abs(offset))} +- {seconds(uncertainty)} ({node})",
        expected,
        advice,
        abs(offset),
        "s",
        {"offset_s": {n: o for n, (o, _) in of_node.items()}, "uncertainty_s": {n: u for n, (_, u) in of_node.items()}},
    )
