"""Spread the experts of each node over its ranks, so that the busiest rank of every slot has least to do.

Shapes as in :mod:`unipool_dist.placement.traffic`.
"""

from __future__ import annotations

import numpy as np

from unipool_dist.placement.swaps import Swaps
from unipool_dist.placement.traffic import Ints, Traffic

_FIRST_POWER = 8
_POWERS = (8, 32, 128)
_MAX_SWAPS = 2000
_MAX_SWAPS_ACROSS = 100
_PATIENCE = 12
"""Swaps between nodes without a new least cost, after which no more are tried."""


def spread(traffic: Traffic, node_E: Ints) -> Ints:
    """Return the owner of every expert, a rank of the node given: longest first, then by swaps within the nodes."""
    owner = _longest_first(traffic, node_E)
    for power in _POWERS:
        owner = _even_out(traffic, owner, power)
    return owner


def refine(traffic: Traffic, owner_E: Ints) -> Ints:
    """Return a placement that costs no more than the one given, found by swaps between nodes."""
    if traffic.topology.num_nodes == 1:
        return owner_E
    best, least, since = owner_E, traffic.cost(owner_E).total, 0
    swaps = Swaps(traffic, owner_E, power=_POWERS[1], across=True)
    for _ in range(_MAX_SWAPS_ACROSS):
        if not any(swaps.improve(rank) for rank in swaps.busiest()):
            break
        tried = _even_out(traffic, swaps.owner_E, _POWERS[-1])
        cost, since = traffic.cost(tried).total, since + 1
        if cost < least:
            best, least, since = tried, cost, 0
        if since > _PATIENCE:
            break
    return best


def _even_out(traffic: Traffic, owner_E: Ints, power: int) -> Ints:
    """Swap within nodes until no slot's busiest rank has a swap that helps."""
    swaps = Swaps(traffic, owner_E, power=power, across=False)
    for _ in range(_MAX_SWAPS):
        if not any(swaps.improve(rank) for rank in swaps.busiest()):
            break
    return swaps.owner_E


def _longest_first(traffic: Traffic, node_E: Ints) -> Ints:
    """Give the largest expert that is left to the rank of its node where it makes the loads least uneven."""
    topology = traffic.topology
    relative_EK = (traffic.rows_KE / np.maximum(traffic.mean_K, 1e-300)[:, None]).T
    owner = np.full(traffic.num_experts, -1, dtype=np.int64)
    for node in range(topology.num_nodes):
        ranks = np.flatnonzero(topology.node_R == node)
        room = np.full(len(ranks), traffic.experts_per_rank)
        load_RK = np.zeros((len(ranks), relative_EK.shape[1]))
        experts = np.flatnonzero(node_E == node)
        for expert in experts[(-relative_EK[experts].max(axis=1)).argsort(kind="stable")]:
            grown = ((load_RK + relative_EK[expert]) ** _FIRST_POWER - load_RK**_FIRST_POWER).sum(axis=1)
            place = int(np.where(room > 0, grown, np.inf).argmin())
            owner[expert] = ranks[place]
            load_RK[place] += relative_EK[expert]
            room[place] -= 1
    return owner
