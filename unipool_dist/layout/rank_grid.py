"""The rank grid, with every group as a slice of it. Pure arithmetic, no torch.

Ranks are laid out in Megatron's order, tensor parallelism fastest and pipeline stages slowest:
``rank = (pp_index * dp + dp_index) * tp + tp_index``.

The ranks of a stage, ``dp * tp`` of them, are cut into blocks of ``q / n`` neighbours. ``n`` stages in a row, taken
at the same block, form a **pool group** of ``q`` ranks, which owns every pool of its stages once. A rank's position
in its pool group, stage by stage, is its **pool rank**; the ranks with the same pool rank in the groups that hold the
same pool are replicas of each other and form an **expert-data-parallel group**.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from unipool_dist.layout.pool_map import PoolMap

Ranks = tuple[int, ...]
Span = tuple[int, int]
"""First and last stage group, inclusive, in which a pool is used."""


@dataclass(frozen=True)
class RankGrid:
    """The layout of ``pp * dp * tp`` ranks and of the pool groups over them.

    The caller has checked that ``pp % n == 0``, ``q % n == 0`` and ``(dp * tp) % (q / n) == 0``
    (:mod:`unipool_dist.config.checks` does).
    """

    pp: int
    dp: int
    tp: int
    pool_parallel_size: int  # q
    stages_per_group: int  # n

    def __post_init__(self) -> None:
        assert self.pp % self.stages_per_group == 0
        assert self.pool_parallel_size % self.stages_per_group == 0
        assert (self.dp * self.tp) % self.block_size == 0

    @property
    def world_size(self) -> int:
        return self.pp * self.dp * self.tp

    @property
    def block_size(self) -> int:
        """Ranks that one stage gives to a pool group, q / n."""
        return self.pool_parallel_size // self.stages_per_group

    @property
    def num_stage_groups(self) -> int:
        return self.pp // self.stages_per_group

    def coordinates(self, rank: int) -> tuple[int, int, int]:
        """Return ``(pp_index, dp_index, tp_index)`` of ``rank``."""
        rest, tp_index = divmod(rank, self.tp)
        pp_index, dp_index = divmod(rest, self.dp)
        return pp_index, dp_index, tp_index

    @cached_property
    def _by_pool(self) -> np.ndarray:
        """Ranks as [stage group, stage in group, block, place in block]."""
        blocks = self.dp * self.tp // self.block_size
        shape = (self.num_stage_groups, self.stages_per_group, blocks, self.block_size)
        return np.arange(self.world_size).reshape(shape)

    def pool_groups(self) -> list[Ranks]:
        """Return all pool groups; within one, ranks are listed by pool rank (stage by stage)."""
        groups = self._by_pool.transpose(0, 2, 1, 3).reshape(-1, self.pool_parallel_size)
        return [tuple(int(rank) for rank in group) for group in groups]

    def pool_group_of(self, rank: int) -> Ranks:
        return next(group for group in self.pool_groups() if rank in group)

    def stage_of_pool_rank(self, pool_rank: int) -> int:
        """Return the stage, counted within the pool group, of the rank at ``pool_rank``."""
        return pool_rank // self.block_size

    def stage_group_of(self, rank: int) -> int:
        return self.coordinates(rank)[0] // self.stages_per_group

    def layers_of_stage(self, num_layers: int) -> list[range]:
        """Return the layers of every stage, in order.

        Where they do not divide evenly, earlier stages take one more: the last stage already has the output layer.
        """
        base, extra = divmod(num_layers, self.pp)
        sizes = [base + (stage < extra) for stage in range(self.pp)]
        starts = np.cumsum([0, *sizes])
        return [range(int(starts[s]), int(starts[s]) + sizes[s]) for s in range(self.pp)]

    def pool_spans(self, pools: PoolMap) -> list[Span]:
        """Return for every pool the stage groups that use it, and so hold a copy of it."""
        stage_of_layer = [s for s, layers in enumerate(self.layers_of_stage(pools.num_layers)) for _ in layers]
        spans = []
        for pool in range(pools.num_pools):
            layers = pools.layers_of(pool)
            first, last = stage_of_layer[layers[0]], stage_of_layer[layers[-1]]
            spans.append((first // self.stages_per_group, last // self.stages_per_group))
        return spans

    def expert_data_groups(self, span: Span) -> list[Ranks]:
        """Return the replica groups of the experts whose pool is held by the stage groups of ``span``."""
        first, last = span
        places = self._by_pool[first : last + 1].transpose(1, 3, 0, 2).reshape(self.pool_parallel_size, -1)
        return [tuple(int(rank) for rank in replicas) for replicas in places]
