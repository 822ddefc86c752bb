"""Which rank of a pool group owns which expert, and the policies that decide it. Pure arithmetic, no torch.

Experts have global ids everywhere else, on disk too: expert ``e`` of pool ``g`` is ``g * M + e``. Only the exchange
asks the placement who owns whom.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from unipool_dist.base.registry import Registry
from unipool_dist.errors import ConfigError
from unipool_dist.placement.planner import kept_in_place, plan_placement
from unipool_dist.placement.traffic import Ints, Traffic


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


@dataclass(frozen=True)
class PoolGroup:
    """What a policy places: the experts of one pool group, over its ranks.

    Rank ``r`` of the group belongs to the ``r // (parallel_size // num_stages)``-th of its pipeline stages.
    """

    pools: tuple[int, ...]
    """Global numbers of the pools that the group owns."""
    num_experts: int
    """M, of each pool."""
    parallel_size: int
    """q, ranks of the group."""
    num_stages: int

    def check(self, placement: Placement, source: str) -> None:
        """Refuse a placement of other experts, or over other ranks.

        Args:
            source: who made it, for the message.

        Raises:
            ConfigError: the placement is not one of this group.
        """
        experts = [pool * self.num_experts + expert for pool in self.pools for expert in range(self.num_experts)]
        if placement.pool_parallel_size != self.parallel_size or sorted(placement.order) != experts:
            raise ConfigError(
                f"{source} must place each of the {len(experts)} experts of pools {list(self.pools)} once over "
                f"{self.parallel_size} ranks, not {len(placement.order)} over {placement.pool_parallel_size}: return a "
                f"Placement whose order has these global ids"
            )


class PlacementPolicy(ABC):
    """Decides where experts are when a model is built. Constructed without arguments."""

    @abstractmethod
    def place(self, group: PoolGroup) -> Placement:
        """Return the placement for ``group``.

        It is the same on every rank and for every group of the same pools: it may depend on ``group`` and on files
        that all ranks see, not on chance or time. Collectives: none.
        """


class LearnedPolicy(PlacementPolicy):
    """A policy that also moves experts in the middle of a run, at the steps of ``pool.placement_steps``."""

    @abstractmethod
    def improve(self, traffic: Traffic, owner_E: Ints) -> Ints | None:
        """Return better owners for the experts of one pool, or ``None`` to leave them where they are.

        Called on rank 0 alone, in a separate thread during training.

        Args:
            traffic: what the layers that share the pool have sent to its experts since the last time.
            owner_E: int64 [M] rank of the pool group that owns each expert now; equally many for each rank.
        """


class Contiguous(PlacementPolicy):
    """Each rank owns ``M / q`` neighbouring experts of every pool."""

    def place(self, group: PoolGroup) -> Placement:
        """Return the experts in the order of their ids, pool by pool within one owner."""
        share = group.num_experts // group.parallel_size
        order = [
            pool * group.num_experts + owner * share + slot
            for owner in range(group.parallel_size)
            for pool in group.pools
            for slot in range(share)
        ]
        return Placement(tuple(order), group.parallel_size)


class Usage(Contiguous, LearnedPolicy):
    """Begins with neighbouring experts; then puts them where they are used, and the ranks equally busy."""

    _LEAST_GAIN = 0.01
    """Of the cost, below which nothing is moved."""

    def improve(self, traffic: Traffic, owner_E: Ints) -> Ints | None:
        """Return the planner's placement if it is cheaper than the present one."""
        planned = plan_placement(traffic)
        if planned.cost.total >= (1 - self._LEAST_GAIN) * traffic.cost(owner_E).total:
            return None
        return kept_in_place(planned.owner_E, owner_E, traffic.topology.node_R)


def placement_of(owner_PM: Mapping[int, Ints], num_experts: int, parallel_size: int) -> Placement:
    """Return the placement in which ``owner_PM[pool][expert]`` is the rank that owns an expert of a pool.

    A rank has its experts pool by pool, in the order of their ids.
    """
    order = [
        pool * num_experts + int(expert)
        for owner in range(parallel_size)
        for pool, owner_M in sorted(owner_PM.items())
        for expert in np.flatnonzero(owner_M == owner)
    ]
    return Placement(tuple(order), parallel_size)


PLACEMENTS: Registry[type[PlacementPolicy]] = Registry(
    "pool.placement", {"contiguous": Contiguous, "usage": Usage}, base=PlacementPolicy
)


def placed(name: str, group: PoolGroup) -> Placement:
    """Return what the policy called ``name`` in ``pool.placement`` makes of ``group``.

    Raises:
        ConfigError: there is no such policy, or what it returns is not a placement of this group.
    """
    placement = PLACEMENTS[name]().place(group)
    group.check(placement, f"pool.placement={name}")
    return placement
