"""Exchange experts between ranks, for as long as the cost of a placement falls.

The cost is a sum of maxima, which a swap seldom changes, so swaps are chosen by a smooth one: the power mean of a
slot's loads over all ranks, relative to their mean, and of its flows, near which the maxima are for a high power. Loads
are computed exactly, flows by their slope.

Shapes as in :mod:`unipool_dist.placement.traffic`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from unipool_dist.placement.traffic import Floats, Ints, Traffic

_FLOW_POWER = 16
_LEAST_GAIN = 1e-9
"""Of the rows of a mean rank: smaller gains are rounding."""


class Swaps:
    """The state of a search by swaps of two experts.

    Args:
        owner_E: the placement to begin with.
        power: of the mean over the ranks of a slot.
        across: also swap between nodes, which changes flows; else only within.
    """

    def __init__(self, traffic: Traffic, owner_E: Ints, *, power: int, across: bool) -> None:
        self.owner_E = owner_E.copy()
        self._traffic, self._power, self._across = traffic, power, across
        self._node_R, self._mean_K = traffic.topology.node_R, traffic.mean_K
        self._relative_EK: Floats = (traffic.rows_KE / np.maximum(traffic.mean_K, 1e-300)[:, None]).T
        self._experts_of = [np.flatnonzero(owner_E == rank) for rank in range(traffic.topology.num_ranks)]
        self._load_RK = np.array([self._relative_EK[experts].sum(axis=0) for experts in self._experts_of])
        self._least = _LEAST_GAIN * float(self._mean_K.sum())

    def busiest(self) -> list[int]:
        """Return the busiest rank of every slot, that of the slot with most rows first."""
        ranks = self._load_RK.argmax(axis=0)[(-self._mean_K).argsort(kind="stable")]
        return list(dict.fromkeys(ranks.tolist()))

    def improve(self, rank: int) -> bool:
        """Make the best swap of ``rank`` with another; return whether there is one that helps."""
        slope_K = self._load_slope()
        flow_EN = self._flow_slope() if self._across else None
        found = min((self._best_with(rank, other, slope_K, flow_EN) for other in self._partners(rank)), default=None)
        if found is None or found[0] > -self._least:
            return False
        self._swap(rank, *found[1:])
        return True

    def _partners(self, rank: int) -> Iterable[int]:
        node = self._node_R[rank]
        others = np.arange(len(self._node_R)) if self._across else np.flatnonzero(self._node_R == node)
        return (int(other) for other in others if other != rank)

    def _load_slope(self) -> Floats:
        """Return by slot the slope of ``mean (sum_r load ** power) ** (1 / power)`` in ``load ** power``."""
        total = np.maximum((self._load_RK**self._power).sum(axis=0), 1e-300)
        return np.asarray(self._mean_K * total ** (1 / self._power - 1) / self._power)

    def _flow_slope(self) -> Floats:
        """Return the slope of the cost of flows in where each expert is, [E, N]."""
        out_SK, in_NK = self._traffic.flows(self._node_R[self.owner_E])
        flows = np.concatenate([out_SK, in_NK])
        relative = flows / np.maximum(flows.max(axis=0), 1e-300)
        total = np.maximum((relative**_FLOW_POWER).sum(axis=0), 1e-300)
        slope = relative ** (_FLOW_POWER - 1) * total ** (1 / _FLOW_POWER - 1)
        stages = len(out_SK)
        return self._traffic.crossing_cost * self._traffic.weighted_flows(slope[:stages], slope[stages:])

    def _best_with(self, rank: int, other: int, slope_K: Floats, flow_EN: Floats | None) -> tuple[float, int, int, int]:
        """Return what the best swap with ``other`` adds to the smooth cost; then ``other`` and both places."""
        mine, theirs = self._experts_of[rank], self._experts_of[other]
        change = self._relative_EK[theirs][None] - self._relative_EK[mine][:, None]  # [mine, theirs, K]
        power = self._power
        before_K = self._load_RK[rank] ** power + self._load_RK[other] ** power
        # Rounding may leave a load just below 0.
        after = np.abs(self._load_RK[rank] + change) ** power + np.abs(self._load_RK[other] - change) ** power
        added = (after - before_K) @ slope_K
        if flow_EN is not None:
            here, there = self._node_R[rank], self._node_R[other]
            added += (flow_EN[mine, there] - flow_EN[mine, here])[:, None]
            added += (flow_EN[theirs, here] - flow_EN[theirs, there])[None]
        a, b = np.unravel_index(added.argmin(), added.shape)
        return float(added[a, b]), other, int(a), int(b)

    def _swap(self, rank: int, other: int, a: int, b: int) -> None:
        mine, theirs = self._experts_of[rank], self._experts_of[other]
        first, second = int(mine[a]), int(theirs[b])
        change = self._relative_EK[second] - self._relative_EK[first]
        mine[a], theirs[b] = second, first
        self.owner_E[first], self.owner_E[second] = other, rank
        self._load_RK[rank] += change
        self._load_RK[other] -= change
