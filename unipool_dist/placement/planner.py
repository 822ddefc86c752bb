"""Find a placement for the traffic that was seen: nodes first, then the ranks within them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unipool_dist.placement.nodes import choose_nodes, flow_bound
from unipool_dist.placement.ranks import refine, spread
from unipool_dist.placement.traffic import Cost, Ints, Traffic

_FEW_EXPERTS = 512
"""With so few, how the ranks of a node can share its load matters, and several choices of nodes are tried."""
_TRIED = 8


@dataclass(frozen=True)
class Planned:
    """A placement, and how good it is for the traffic that it was planned for."""

    owner_E: Ints
    """Rank of the pool group that owns every expert; each owns equally many."""
    cost: Cost
    bound: float
    """No placement costs less than this."""


def plan_placement(traffic: Traffic) -> Planned:
    """Return a placement of nearly the least cost; the same whenever and wherever it is planned."""
    nodes = choose_nodes(traffic, keep=_TRIED if traffic.num_experts <= _FEW_EXPERTS else 1)
    tried = [refine(traffic, spread(traffic, node_E)) for node_E in nodes.nodes]
    owner = min(tried, key=lambda owner: traffic.cost(owner).total)
    apart = _load_bound(traffic) + traffic.crossing_cost * flow_bound(traffic)
    return Planned(owner, traffic.cost(owner), max(nodes.bound, apart))


def kept_in_place(owner_E: Ints, before_E: Ints, node_R: Ints) -> Ints:
    """Exchange the ranks of each node so that more experts stay where they were; the cost is the same."""
    number = np.arange(len(node_R))
    for node in range(int(node_R.max()) + 1):
        ranks = np.flatnonzero(node_R == node)
        shared = np.zeros((len(node_R), len(node_R)), dtype=np.int64)
        np.add.at(shared, (owner_E, before_E), 1)
        shared = shared[np.ix_(ranks, ranks)]
        for _ in ranks:  # the pair that shares most experts, then of those that are left
            new, old = np.unravel_index(shared.argmax(), shared.shape)
            number[ranks[new]] = ranks[old]
            shared[new], shared[:, old] = -1, -1
    return number[owner_E]


def _load_bound(traffic: Traffic) -> float:
    """Return a bound from loads alone.

    No slot is over before the mean load is computed, nor before its busiest expert is, and whatever experts its owner
    has with it.
    """
    with_it = np.sort(traffic.rows_KE, axis=1)[:, : traffic.experts_per_rank - 1].sum(axis=1)
    return float(np.maximum(traffic.mean_K, traffic.rows_KE.max(axis=1) + with_it).sum())
