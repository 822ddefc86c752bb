"""Choose the node of every expert, so that the busiest node and the busiest link of every slot have least to do.

Maxima are what counts, and they are not linear. A maximum is the largest weighted mean, so with weights on nodes and
links the cost has a linear lower bound, whose least value is a transportation problem. Weights are then shifted to
what was busiest (multiplicative weights, Arora, Hazan, Kale 2012) and the problem is solved again: the best assignment
met is kept, and every round proves a lower bound on the cost of any placement.

Shapes as in :mod:`unipool_dist.placement.traffic`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unipool_dist.placement.traffic import Floats, Ints, Traffic
from unipool_dist.placement.transportation import assign

_ROUNDS = 40
_LEARNING_RATE = 1.5
_NODE_SHARPNESS = 3.0  # loads differ less than flows do, and are to be equal all the same


@dataclass(frozen=True)
class NodePlan:
    """Assignments of experts to nodes, and a proved lower bound on the cost of any placement."""

    nodes: tuple[Ints, ...]
    """Node of every expert; the best first, if ranks of a node could share their load evenly."""
    bound: float


def flow_bound(traffic: Traffic, rounds: int = _ROUNDS) -> float:
    """Return a proved lower bound on the flows of any placement, ``sum_k max(max_s out, max_n in)``."""
    topology = traffic.topology
    if topology.num_nodes == 1:
        return 0.0
    room_N = topology.ranks_of_node * traffic.experts_per_rank
    weights, price, bound = _Weights.even(traffic), None, 0.0
    for round_ in range(rounds):
        assignment = assign(traffic.weighted_flows(weights.out_SK, weights.in_NK), room_N, price)
        price, bound = assignment.price_N, max(bound, assignment.bound)
        weights.shift_links(*traffic.flows(assignment.place_E), _LEARNING_RATE / (1 + round_ / 8))
    return bound


def choose_nodes(traffic: Traffic, keep: int, rounds: int = _ROUNDS) -> NodePlan:
    """Return the best ``keep`` assignments of ``rounds``; each node gets as many experts as its ranks have room for."""
    topology = traffic.topology
    if topology.num_nodes == 1:
        return NodePlan((np.zeros(traffic.num_experts, dtype=np.int64),), 0.0)
    room_N = topology.ranks_of_node * traffic.experts_per_rank
    weights, price = _Weights.even(traffic), None
    found: dict[bytes, tuple[float, Ints]] = {}
    bound = 0.0
    for round_ in range(rounds):
        assignment = assign(weights.costs(traffic), room_N, price)
        price, bound = assignment.price_N, max(bound, assignment.bound)
        out_SK, in_NK = traffic.flows(assignment.place_E)
        load_NK = _node_load(traffic, assignment.place_E)
        network = np.maximum(out_SK.max(axis=0), in_NK.max(axis=0)).sum()
        cost = load_NK.max(axis=0).sum() + traffic.crossing_cost * network
        found[assignment.place_E.tobytes()] = (float(cost), assignment.place_E)
        weights.shift(out_SK, in_NK, load_NK, _LEARNING_RATE / (1 + round_ / 8))
    best = sorted(found.values(), key=lambda item: item[0])
    return NodePlan(tuple(node_E for _, node_E in best[:keep]), bound)


@dataclass
class _Weights:
    """Weights of a slot's links, which sum to 1 over stages and nodes, and of its nodes' loads, which do as well."""

    out_SK: Floats
    in_NK: Floats
    load_NK: Floats

    @classmethod
    def even(cls, traffic: Traffic) -> _Weights:
        stages, slots, _ = traffic.rows_SKE.shape
        nodes = traffic.topology.num_nodes
        links = stages + nodes
        return cls(
            np.full((stages, slots), 1 / links), np.full((nodes, slots), 1 / links), np.full((nodes, slots), 1 / nodes)
        )

    def costs(self, traffic: Traffic) -> Floats:
        """Return what every expert adds to the weighted cost in every node."""
        flows = traffic.weighted_flows(self.out_SK, self.in_NK)
        loads = traffic.rows_KE.T @ (self.load_NK / traffic.topology.ranks_of_node[:, None]).T
        return np.asarray(traffic.crossing_cost * flows + loads)

    def shift(self, out_SK: Floats, in_NK: Floats, load_NK: Floats, rate: float) -> None:
        """Move weight to the links and nodes that were busiest."""
        self.shift_links(out_SK, in_NK, rate)
        self.load_NK = _shifted(self.load_NK, load_NK, _NODE_SHARPNESS * rate)

    def shift_links(self, out_SK: Floats, in_NK: Floats, rate: float) -> None:
        """Move weight to the links that were busiest."""
        stages = len(out_SK)
        links = _shifted(np.concatenate([self.out_SK, self.in_NK]), np.concatenate([out_SK, in_NK]), rate)
        self.out_SK, self.in_NK = links[:stages], links[stages:]


def _shifted(weights: Floats, amounts: Floats, rate: float) -> Floats:
    most = np.maximum(amounts.max(axis=0), 1e-300)
    grown = weights * np.exp(rate * amounts / most)
    return np.asarray(grown / grown.sum(axis=0))


def _node_load(traffic: Traffic, node_E: Ints) -> Floats:
    """Return the rows that a node's rank computes in every slot, if its ranks share them evenly, [N, K]."""
    load = np.zeros((traffic.topology.num_nodes, len(traffic.mean_K)))
    np.add.at(load, node_E, traffic.rows_KE.T)
    return np.asarray(load / traffic.topology.ranks_of_node[:, None])
