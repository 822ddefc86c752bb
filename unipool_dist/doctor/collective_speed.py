"""Latency and bandwidth of collectives over the groups that training uses, all groups of a kind at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist

from unipool_dist.base.units import gb_per_s, seconds, size
from unipool_dist.doctor.findings import Check
from unipool_dist.doctor.group_forming import NOT_COMPARED, Groups, comparable
from unipool_dist.doctor.judgement import SLOW_FACTOR, bus_factor, slow
from unipool_dist.doctor.measurement import Probe
from unipool_dist.doctor.roster import Roster
from unipool_dist.doctor.timing import median_seconds

Kind = Literal["all-reduce", "all-to-all", "send/recv"]

_LARGE_BYTES = {"cpu": 8_000_000, "cuda": 256_000_000}
_BYTES_PER_RANK = 8  # of a small message


@dataclass(frozen=True)
class Timed:
    """The measurements of one rank in its group. Bytes are those of one rank's buffer."""

    ranks: list[int]
    small_bytes: int
    small_seconds: float
    large_bytes: int
    large_seconds: float


class Collective(Probe[Timed]):
    """One kind of collective over one kind of group, with a small and with a large message.

    A small one is repeated back to back and gives the latency; before a large one all ranks of the world wait for each
    other. Reported are medians, after one warm-up run.

    Collectives: those measured over ``group``, with all-reduces of one number over the world between them.
    """

    measured = Timed
    communicates = True

    def __init__(
        self, kind: Kind, name: str, group: dist.ProcessGroup, groups: Groups, roster: Roster, large_bytes: int = 0
    ) -> None:
        self.name = f"{kind}, {name}"
        self._kind, self._group, self._groups, self._roster = kind, group, groups, roster
        large = large_bytes or _LARGE_BYTES[groups.device.type]
        unit = _BYTES_PER_RANK * group.size()
        self._bytes = unit, max(unit, large // unit * unit)

    def measure(self, brief: str) -> Timed:
        device, (small, large) = self._groups.device, self._bytes
        ranks = dist.get_process_group_ranks(self._group)
        if len(ranks) == 1:
            return Timed(ranks, small, 0.0, large, 0.0)
        token = torch.ones(1, device=device)
        small_s = median_seconds(self._operation(small), device, repetitions=5, batch=20)
        large_s = median_seconds(
            self._operation(large),
            device,
            repetitions=5,
            together=lambda: dist.all_reduce(token, group=self._groups.world),
        )
        return Timed(ranks, small, small_s, large, large_s)

    def _operation(self, num_bytes: int) -> Callable[[], object]:
        buffer = torch.zeros(num_bytes // 4, dtype=torch.float32, device=self._groups.device)
        if self._kind == "all-reduce":
            return lambda: dist.all_reduce(buffer, group=self._group)
        received = torch.empty_like(buffer)
        if self._kind == "all-to-all":
            return lambda: dist.all_to_all_single(received, buffer, group=self._group)
        return lambda: _shift(buffer, received, self._group)

    def judge(self, measured: Sequence[Timed]) -> list[Check]:
        compare = comparable(self._groups, self._roster)
        return [judge_collective(self.name, self._kind, measured, self._roster, compare=compare)]


def _shift(sent: torch.Tensor, received: torch.Tensor, group: dist.ProcessGroup) -> None:
    """Send from every stage of a pipeline to the next, all at once."""
    ranks, place = dist.get_process_group_ranks(group), group.rank()
    operations = []
    if place + 1 < len(ranks):
        operations.append(dist.P2POp(dist.isend, sent, ranks[place + 1], group))
    if place > 0:
        operations.append(dist.P2POp(dist.irecv, received, ranks[place - 1], group))
    for work in dist.batch_isend_irecv(operations):
        work.wait()


def faster_collective(one: Timed, other: Timed) -> Timed:
    """Return the measurement with the faster large message."""
    return min(one, other, key=lambda timed: timed.large_seconds)


def judge_collective(name: str, kind: Kind, measured: Sequence[Timed], roster: Roster, *, compare: bool) -> Check:
    """Judge groups by their slowest rank; the slowest group represents all. Pure.

    Bandwidth is bus bandwidth as nccl-tests define it (:func:`~unipool_dist.doctor.judgement.bus_factor`).
    """
    expected = f"no group above {SLOW_FACTOR:g}x the median" if compare else NOT_COMPARED
    if len(measured[0].ranks) == 1:
        return Check(name, "ok", "one rank in each group: nothing is sent", expected)
    groups: dict[tuple[int, ...], dict[str, Any]] = {}
    for one in measured:
        before = groups.get(tuple(one.ranks), {"small_seconds": 0.0, "large_seconds": 0.0})
        small_s = max(one.small_seconds, before["small_seconds"])
        large_s = max(one.large_seconds, before["large_seconds"])
        algorithm = one.large_bytes / large_s
        groups[tuple(one.ranks)] = {
            "ranks": one.ranks,
            "small_bytes": one.small_bytes,
            "small_seconds": small_s,
            "large_bytes": one.large_bytes,
            "large_seconds": large_s,
            "algorithm_gb_per_s": algorithm / 1e9,
            "bus_gb_per_s": algorithm * bus_factor(kind, len(one.ranks)) / 1e9,
        }
    worst = max(groups.values(), key=lambda group: float(group["large_seconds"]))
    large = {ranks: float(group["large_seconds"]) for ranks, group in groups.items()}
    slow_groups = slow(large if compare else {})
    named = "; ".join(f"{roster.name(ranks)} {ratio:.1f}x" for ranks, ratio in slow_groups.items())
    return Check(
        name,
        "warn" if slow_groups else "ok",
        f"{gb_per_s(worst['bus_gb_per_s'] * 1e9)} bus at {size(worst['large_bytes'])}, "
        f"{seconds(worst['small_seconds'])} at {size(worst['small_bytes'])}, {len(worst['ranks'])} ranks"
        + (f" x {len(groups)}" if len(groups) > 1 else ""),
        expected,
        f"slower than the median group: {named}; see compute and links for who holds it up" if slow_groups else "",
        worst["bus_gb_per_s"],
        "GB/s",
        {"kind": kind, "groups": list(groups.values())},
    )
