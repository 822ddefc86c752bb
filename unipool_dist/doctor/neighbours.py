"""Speed between neighbours in a ring, pair by pair: a collective hides who is slow, pairs do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from unipool_dist.base.units import gb_per_s, ratios, seconds
from unipool_dist.doctor.findings import Check
from unipool_dist.doctor.group_forming import NOT_COMPARED, Groups, comparable
from unipool_dist.doctor.judgement import SLOW_FACTOR, ring_rounds, slow_members_and_pairs
from unipool_dist.doctor.measurement import Probe
from unipool_dist.doctor.roster import Roster
from unipool_dist.doctor.timing import median_seconds

_SMALL_BYTES = 8
_LARGE_BYTES = {"cpu": 4_000_000, "cuda": 64_000_000}


@dataclass(frozen=True)
class Link:
    """One pair of ranks; seconds are for one way."""

    first: int
    second: int
    small_seconds: float
    large_bytes: int
    large_seconds: float


@dataclass(frozen=True)
class Measured:
    """The pairs whose first member this rank is."""

    links: list[Link]


class Links(Probe[Measured]):
    """Messages back and forth between neighbours in a ring of nodes, or of ranks if there is one node.

    A node sends by its first rank. In a round no member has two partners; pairs of a round send at the same time.

    Collectives: an all-reduce of one number over the world before each round; messages within pairs.
    """

    name = "links"
    measured = Measured
    communicates = True

    def __init__(self, groups: Groups, rank: int, roster: Roster) -> None:
        self._groups, self._rank, self._roster = groups, rank, roster

    def measure(self, brief: str) -> Measured:
        roster, links = self._roster, []
        members = roster.leaders if len(roster.nodes) > 1 else range(roster.world_size)
        token = torch.ones(1, device=self._groups.device)
        for pairs in ring_rounds(len(members)):
            dist.all_reduce(token, group=self._groups.world)
            for first, second in ((members[i], members[j]) for i, j in pairs):
                if self._rank in (first, second):
                    link = self._measure_pair(first, second)
                    links += [link] if self._rank == first else []
        return Measured(links)

    def _measure_pair(self, first: int, second: int) -> Link:
        device = self._groups.device
        large = _LARGE_BYTES[device.type]
        times = [
            median_seconds(self._to_and_fro(first, second, num_bytes), device, repetitions=repetitions) / 2
            for num_bytes, repetitions in ((_SMALL_BYTES, 20), (large, 7))
        ]
        return Link(first, second, times[0], large, times[1])

    def _to_and_fro(self, first: int, second: int, num_bytes: int):  # type: ignore[no-untyped-def]
        buffer = torch.zeros(num_bytes, dtype=torch.uint8, device=self._groups.device)
        other = second if self._rank == first else first
        calls = [dist.send, dist.recv] if self._rank == first else [dist.recv, dist.send]
        return lambda: [call(buffer, other, self._groups.world) for call in calls]

    def judge(self, measured: Sequence[Measured]) -> list[Check]:
        links = [link for one in measured for link in one.links]
        return [judge_links(links, self._roster, compare=comparable(self._groups, self._roster))]


def faster_links(one: Measured, other: Measured) -> Measured:
    """Return the faster measurement of each pair."""
    pairs = zip(one.links, other.links, strict=True)
    return Measured([min(pair, key=lambda link: link.large_seconds) for pair in pairs])


def judge_links(links: Sequence[Link], roster: Roster, *, compare: bool) -> Check:
    """Find slow members, all of whose links are slow, and slow links between others. Pure."""
    by_node = len(roster.nodes) > 1
    expected = f"nobody above {SLOW_FACTOR:g}x the median" if compare else NOT_COMPARED
    if not links:
        return Check("links", "ok", "one rank: no link", expected)
    large = {(link.first, link.second): link.large_seconds for link in links}
    members, pairs = slow_members_and_pairs(large if compare else {})
    named = {_name(rank, roster): ratio for rank, ratio in members.items()}
    named |= {f"{_name(a, roster)} - {_name(b, roster)}": ratio for (a, b), ratio in pairs.items()}
    slowest = max(links, key=lambda link: link.large_seconds)
    bytes_per_s = slowest.large_bytes / slowest.large_seconds
    latency_s = max(link.small_seconds for link in links)
    advice = ""
    if named:
        where = "network card, cable and switch port" if by_node else "`top`, and how its device is attached"
        advice = f"slower than the median: {ratios(named)}; see {where} there, or leave it out"
    return Check(
        "links",
        "warn" if named else "ok",
        f"{gb_per_s(bytes_per_s)} from {_name(slowest.first, roster)} to {_name(slowest.second, roster)}, latency "
        f"{seconds(latency_s)}: the slowest of {len(links)}",
        expected,
        advice,
        bytes_per_s / 1e9,
        "GB/s",
        {
            "links": [
                {
                    "ranks": [link.first, link.second],
                    "nodes": [roster.node_of[link.first], roster.node_of[link.second]],
                    "small_seconds": link.small_seconds,
                    "large_bytes": link.large_bytes,
                    "large_seconds": link.large_seconds,
                    "gb_per_s": link.large_bytes / link.large_seconds / 1e9,
                }
                for link in links
            ]
        },
        slow_nodes=tuple(roster.node_of[rank] for rank in members) if by_node else (),
        slow_ranks=() if by_node else tuple(members),
    )


def _name(rank: int, roster: Roster) -> str:
    return roster.node_of[rank] if len(roster.nodes) > 1 else f"rank {rank}"
