"""Which pool rank owns which expert. Pure arithmetic, no torch.

Experts have global ids everywhere else, on disk too: expert ``e`` of pool ``g`` is ``g * M + e``. Only the exchange
asks the placement who owns whom.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Placement:
    """Owner of every expert in one pool group.

    ``order`` lists the pool group's experts by global id, owner after owner, each owner's in the order of its local
    slots; every pool rank owns equally many.
    """

    order: tuple[int, ...]
    pool_parallel_size: int

    def __post_init__(self) -> None:
        assert len(self.order) % self.pool_parallel_size == 0
        assert len(set(self.order)) == len(self.order)

    @property
    def experts_per_rank(self) -> int:
        return len(self.order) // self.pool_parallel_size

    def experts_of(self, pool_rank: int) -> tuple[int, ...]:
        """Return the global ids owned by ``pool_rank``, by local slot."""
        size = self.experts_per_rank
        return self.order[pool_rank * size : (pool_rank + 1) * size]

    @cached_property
    def position(self) -> np.ndarray:
        """[largest global id + 1] position in ``order`` of each expert, -1 for experts of no pool held here.

        ``position // experts_per_rank`` is the owner, ``position % experts_per_rank`` the local slot; rows sorted by
        position are sorted by owner and, within one owner, by local slot.
        """
        positions = np.full(max(self.order) + 1, -1, dtype=np.int64)
        positions[list(self.order)] = np.arange(len(self.order))
        return positions


def contiguous_placement(pools: list[int], num_experts: int, pool_parallel_size: int) -> Placement:
    """Give each rank ``num_experts / q`` neighbouring experts of every pool in ``pools`` (global pool numbers)."""
    share = num_experts // pool_parallel_size
    order = [
        pool * num_experts + owner * share + slot
        for owner in range(pool_parallel_size)
        for pool in pools
        for slot in range(share)
    ]
    return Placement(tuple(order), pool_parallel_size)
