"""The traffic of one pool on a layout, from how often each layer chose each of its experts. Pure arithmetic, no torch.

Pool groups that hold the same pool place it alike, and each serves its share of the tokens; their traffic is added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unipool_dist.layout.pool_map import PoolMap
from unipool_dist.layout.rank_grid import RankGrid
from unipool_dist.placement.traffic import Floats, Ints, Topology, Traffic

_NETWORK_ROWS = 6000.0
"""Time of a row over the network, there and back, over that of its computation by an expert of width 1: a row is 4 H
bytes of bf16 on the way and 6 H F operations in an expert, ``(4 / 42e9) / (6 / 375e12)`` at 42 GB/s and 375 TFLOP/s."""
_NVLINK_ROWS = 830.0
"""The same at 300 GB/s, between the ranks of a node."""


@dataclass(frozen=True)
class PoolLayout:
    """A model's pools on a layout.

    ``node_of_rank`` has the node of every rank of the world: any number, the same for ranks of one node.
    """

    grid: RankGrid
    pools: PoolMap
    node_of_rank: tuple[int, ...]
    ffn_hidden_size: int

    def traffic(self, pool: int, counts_LM: Ints) -> Traffic:
        """Return the traffic of ``pool`` for assignments [L, M] of every layer to the experts of its own pool.

        Where the ranks of a pool group share one node, what is to be kept short are the ways between its stages.
        """
        nodes = self._nodes()
        if nodes.max() == 0 and self.grid.stages_per_group > 1:
            stages = np.arange(self.grid.pool_parallel_size) // self.grid.block_size
            return Traffic(
                self._rows(pool, counts_LM),
                Topology(self.grid.stages_per_group, stages),
                crossing_cost=_NVLINK_ROWS / self.ffn_hidden_size,
            )
        topology = Topology(self.grid.stages_per_group, nodes)
        return Traffic(self._rows(pool, counts_LM), topology, crossing_cost=_NETWORK_ROWS / self.ffn_hidden_size)

    def shares_leaving(self, counts_LM: Ints, owner_PM: dict[int, Ints]) -> dict[str, float]:
        """Return the share of all assigned rows whose expert is on another rank, stage and node than their token."""
        grid, size = self.grid, self.grid.block_size
        nodes = self._nodes()
        units = {
            "rank": np.arange(grid.pool_parallel_size),
            "stage": np.arange(grid.pool_parallel_size) // size,
            "node": nodes,
        }
        inside, total = dict.fromkeys(units, 0.0), 0.0
        for pool, owner_M in owner_PM.items():
            rows_SM = self._rows(pool, counts_LM).sum(axis=1)
            total += float(rows_SM.sum())
            for unit, number_R in units.items():
                for stage in range(grid.stages_per_group):
                    # A stage's rows come from its ranks alike: of those in the owner's unit they do not leave it.
                    senders = number_R[stage * size : (stage + 1) * size]
                    share_M = (senders[:, None] == number_R[owner_M][None]).mean(axis=0)
                    inside[unit] += float(rows_SM[stage] @ share_M)
        return {unit: 1 - inside[unit] / total if total else 0.0 for unit in units}

    def _rows(self, pool: int, counts_LM: Ints) -> Floats:
        """Return the rows [S, K, M] that the stages of a pool group send in every slot, for all its layers of the pool.

        The slot of a layer is its place in its stage, whichever pool serves it.
        """
        stages = self.grid.layers_of_stage(self.pools.num_layers)
        rows = np.zeros((self.grid.stages_per_group, max(map(len, stages)), counts_LM.shape[1]))
        mine = self.pools.layers_of(pool)
        for stage, layers in enumerate(stages):
            for slot, layer in enumerate(layers):
                if layer in mine:
                    rows[stage % self.grid.stages_per_group, slot] += counts_LM[layer]
        return rows

    def _nodes(self) -> Ints:
        """Return the node of every rank of the first pool group, from 0 without gaps."""
        group = self.grid.pool_groups()[0]
        _, numbers = np.unique([self.node_of_rank[rank] for rank in group], return_inverse=True)
        return np.asarray(numbers, dtype=np.int64)
