"""What counts as slow, as far off, as different. Pure arithmetic on measurements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import median_low
from typing import TypeVar

from unipool_dist.doctor.roster import Roster

SLOW_FACTOR = 1.5
"""Slow means more than this many times the median."""
MAX_CLOCK_SKEW_S = 1.0
"""Beyond this, file times and the order of lines from different nodes' logs mislead."""

K = TypeVar("K", bound=Hashable)


def slow(seconds: Mapping[K, float], factor: float = SLOW_FACTOR) -> dict[K, float]:
    """Return those of ``seconds`` above ``factor`` times the median, as multiples of it.

    For an even number the median is the lower of the two in the middle, so that one slow out of two is found.
    """
    if not seconds:
        return {}
    reference = median_low(seconds.values())
    return {key: value / reference for key, value in seconds.items() if value > factor * reference}


def slow_nodes_and_ranks(
    seconds: Sequence[float], roster: Roster, factor: float = SLOW_FACTOR
) -> tuple[dict[str, float], dict[int, float]]:
    """Find from one figure per rank the nodes that are slow as a whole, and slow ranks on other nodes.

    A node's figure is the median of its ranks', so it is slow if more than half of them are; ranks are compared with
    all ranks.
    """
    of_node = {node: median_low([seconds[rank] for rank in roster.ranks_of(node)]) for node in roster.nodes}
    nodes = slow(of_node, factor)
    ranks = slow(dict(enumerate(seconds)), factor)
    return nodes, {rank: ratio for rank, ratio in ranks.items() if roster.node_of[rank] not in nodes}


def slow_members_and_pairs(
    seconds: Mapping[tuple[K, K], float], factor: float = SLOW_FACTOR
) -> tuple[dict[K, float], dict[tuple[K, K], float]]:
    """Find from one figure per pair the members all of whose pairs are slow, and slow pairs of other members.

    A member is as fast as the fastest of its pairs: a slow partner does not make it slow. A single pair is never slow,
    as there is nothing to compare it with.
    """
    best: dict[K, float] = {}
    for pair, value in seconds.items():
        for member in pair:
            best[member] = min(value, best.get(member, value))
    members = slow(best, factor)
    pairs = {pair: ratio for pair, ratio in slow(seconds, factor).items() if not set(pair) & set(members)}
    return members, pairs


def by_value(values: Iterable[K]) -> dict[K, list[int]]:
    """Group ranks by their value, the most frequent first."""
    ranks: dict[K, list[int]] = defaultdict(list)
    for rank, value in enumerate(values):
        ranks[value].append(rank)
    return dict(sorted(ranks.items(), key=lambda item: -len(item[1])))


def clock_offset(samples: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Return the offset of another clock in seconds, positive if it is ahead, and its uncertainty.

    A sample is this clock's time of asking, the other's time of answering, and this clock's time of the answer: the
    other read its clock between the two. The sample with the shortest round trip is the most precise.
    """
    asked, answered, received = min(samples, key=lambda sample: sample[2] - sample[0])
    return answered - (asked + received) / 2, (received - asked) / 2


def ring_rounds(num_members: int) -> list[list[tuple[int, int]]]:
    """Return the pairs of neighbours in a ring, in rounds in which no member has two partners."""
    if num_members < 2:
        return []
    if num_members == 2:
        return [[(0, 1)]]
    pairs = [(i, (i + 1) % num_members) for i in range(num_members)]
    even = num_members - num_members % 2
    rounds = [pairs[0:even:2], pairs[1:even:2]]
    return rounds if num_members == even else [*rounds, [pairs[-1]]]


def bus_factor(kind: str, num_ranks: int) -> float:
    """Return the factor from algorithm bandwidth to bus bandwidth, as nccl-tests define both.

    Algorithm bandwidth is the bytes of one rank's buffer by the time of the collective. Bus bandwidth is what each
    link then carries if the collective is done in the best way, and does not depend on the number of ranks: an
    all-reduce moves each byte ``2 (n - 1) / n`` times, an all-to-all keeps ``1 / n`` at home.
    """
    return {
        "all-reduce": 2 * (num_ranks - 1) / num_ranks,
        "all-to-all": (num_ranks - 1) / num_ranks,
        "send/recv": 1.0,
    }[kind]
