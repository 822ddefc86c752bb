"""The rows of a pool group's exchanges under a placement, and what they cost.

Stages run their k-th layers at the same time, so exchange slot k carries the rows of all stages' k-th layers, and is
over when the busiest rank has computed its rows and the busiest link has carried its own. Within a node rows are taken
to travel for nothing.

Shapes: S stages of the group, K slots, E experts, R ranks of the group, N nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Topology:
    """The ranks of a pool group: stage by stage, equally many of each."""

    num_stages: int
    node_R: Ints
    """Number of the node of every rank, from 0 without gaps."""

    def __post_init__(self) -> None:
        assert len(self.node_R) % self.num_stages == 0
        assert set(self.node_R.tolist()) == set(range(self.num_nodes))

    @property
    def num_ranks(self) -> int:
        return len(self.node_R)

    @property
    def num_nodes(self) -> int:
        return int(self.node_R.max()) + 1

    @property
    def ranks_per_stage(self) -> int:
        return self.num_ranks // self.num_stages

    @cached_property
    def ranks_of_node(self) -> Ints:
        """Number of ranks in every node."""
        return np.bincount(self.node_R, minlength=self.num_nodes)

    @cached_property
    def away(self) -> Floats:
        """Share of a stage's ranks that are outside a node: of its rows for experts there, these cross."""
        stage_R = np.arange(self.num_ranks) // self.ranks_per_stage
        inside = np.zeros((self.num_stages, self.num_nodes))
        np.add.at(inside, (stage_R, self.node_R), 1 / self.ranks_per_stage)
        return 1 - inside


def nodes_in_order(num_ranks: int, ranks_per_node: int) -> Ints:
    """Return the node of every rank where ranks fill one node after another."""
    return np.arange(num_ranks) // ranks_per_node


@dataclass(frozen=True)
class Cost:
    """What a placement costs, in rows of expert computation, and its parts; of several slots, their sum."""

    total: float
    busiest_over_mean: float
    """Rows on the busiest rank over the mean rank's, slots weighed by their rows; MaxVio is this less 1."""
    crossing_share: float
    """Share of all rows that leave their node."""


class Traffic:
    """Rows that every stage sends to every expert of a pool in every slot, on a topology.

    Args:
        rows_SKE: rows in some steps; 0 where a stage has no layer in a slot.
        crossing_cost: seconds that a row takes over the network, there and back, over seconds of its computation.
    """

    def __init__(self, rows_SKE: Ints | Floats, topology: Topology, *, crossing_cost: float) -> None:
        assert len(rows_SKE) == topology.num_stages
        self.topology, self.crossing_cost = topology, crossing_cost
        self.rows_SKE = rows_SKE.astype(np.float64)
        self.num_experts = rows_SKE.shape[2]
        assert self.num_experts % topology.num_ranks == 0
        self.rows_KE: Floats = self.rows_SKE.sum(axis=0)
        self.mean_K: Floats = self.rows_KE.sum(axis=1) / topology.num_ranks

    @property
    def experts_per_rank(self) -> int:
        return self.num_experts // self.topology.num_ranks

    def loads(self, owner_E: Ints) -> Floats:
        """Return the rows that every rank computes in every slot."""
        load = np.zeros((self.topology.num_ranks, len(self.mean_K)))
        np.add.at(load, owner_E, self.rows_KE.T)
        return load

    def flows(self, node_E: Ints) -> tuple[Floats, Floats]:
        """Return the rows that a rank of each stage sends to other nodes, [S, K], and each node's get per rank, [N, K].

        A node's ranks are taken to share their links: what arrives is spread over them.
        """
        topology = self.topology
        out_SK = np.zeros(self.rows_SKE.shape[:2])
        in_NK = np.zeros((topology.num_nodes, self.rows_SKE.shape[1]))
        for node in range(topology.num_nodes):
            crossing_SK = self.rows_SKE[:, :, node_E == node].sum(axis=2) * topology.away[:, node, None]
            out_SK += crossing_SK / topology.ranks_per_stage
            in_NK[node] = crossing_SK.sum(axis=0) / topology.ranks_of_node[node]
        return out_SK, in_NK

    def weighted_flows(self, out_SK: Floats, in_NK: Floats) -> Floats:
        """Return what every expert adds to the flows in every node, with a weight for each number of :meth:`flows`."""
        topology, (stages, slots, experts) = self.topology, self.rows_SKE.shape
        weight_SKN = topology.away[:, None, :] * (
            out_SK[:, :, None] / topology.ranks_per_stage + (in_NK / topology.ranks_of_node[:, None]).T[None]
        )
        return np.asarray(
            self.rows_SKE.reshape(stages * slots, experts).T @ weight_SKN.reshape(stages * slots, topology.num_nodes)
        )

    def cost(self, owner_E: Ints) -> Cost:
        """Return what the placement costs: ``sum_k max_r load + w max(max_s out, max_n in)``."""
        load_RK = self.loads(owner_E)
        out_SK, in_NK = self.flows(self.topology.node_R[owner_E])
        busiest = float(load_RK.max(axis=0).sum())
        network = float(np.maximum(out_SK.max(axis=0), in_NK.max(axis=0)).sum())
        rows, mean = float(self.rows_KE.sum()), float(self.mean_K.sum())
        return Cost(
            total=busiest + self.crossing_cost * network,
            busiest_over_mean=busiest / mean if mean else 1.0,
            crossing_share=float(out_SK.sum()) * self.topology.ranks_per_stage / rows if rows else 0.0,
        )


def contiguous_owners(num_experts: int, num_ranks: int) -> Ints:
    """Return the owner of every expert where each rank has neighbours in the order of their ids."""
    return np.arange(num_experts) // (num_experts // num_ranks)
