"""Who owns which expert: every expert exactly once, equally many everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from unipool_dist.base.user_code import trust
from unipool_dist.errors import ConfigError
from unipool_dist.pool.placement import Contiguous, Placement, PlacementPolicy, PoolGroup, placed


@pytest.mark.parametrize("pools", [[0], [0, 1, 2], [3, 4]])
@pytest.mark.parametrize("q", [1, 2, 4, 8])
def test_every_expert_has_one_owner(pools: list[int], q: int) -> None:
    placement = Contiguous().place(PoolGroup(tuple(pools), 16, q, 1))
    owned = [placement.experts_of(rank) for rank in range(q)]
    wanted = [pool * 16 + expert for pool in pools for expert in range(16)]
    assert sorted(expert for experts in owned for expert in experts) == wanted
    assert {len(experts) for experts in owned} == {len(pools) * 16 // q}
    for rank, experts in enumerate(owned):
        for slot, expert in enumerate(experts):
            position = placement.position[expert]
            assert divmod(position, placement.experts_per_rank) == (rank, slot)


def test_each_rank_owns_its_share_of_every_pool() -> None:
    placement = Contiguous().place(PoolGroup((0, 1), 8, 2, 1))
    assert placement.experts_of(0) == (0, 1, 2, 3, 8, 9, 10, 11)
    assert placement.experts_of(1) == (4, 5, 6, 7, 12, 13, 14, 15)


def test_experts_of_other_pools_have_no_position() -> None:
    placement = Contiguous().place(PoolGroup((1,), 4, 2, 1))
    assert placement.position[:4].tolist() == [-1] * 4
    assert np.sort(placement.position[4:]).tolist() == [0, 1, 2, 3]


class Shuffled(PlacementPolicy):
    """Experts dealt to ranks by chance, the same on every rank."""

    def place(self, group: PoolGroup) -> Placement:
        experts = [pool * group.num_experts + expert for pool in group.pools for expert in range(group.num_experts)]
        shuffled = np.random.default_rng(len(experts)).permutation(experts)
        return Placement(tuple(map(int, shuffled)), group.parallel_size)


class Partial(PlacementPolicy):
    """Forgets the last experts."""

    def place(self, group: PoolGroup) -> Placement:
        return Placement(tuple(range(group.num_experts - group.parallel_size)), group.parallel_size)


def test_a_users_policy_is_found_by_name_and_checked() -> None:
    trust([f"{__name__}:Shuffled", f"{__name__}:Partial"])
    group = PoolGroup((1, 2), 8, 4, num_stages=2)
    assert sorted(placed(f"{__name__}:Shuffled", group).order) == list(range(8, 24))
    with pytest.raises(ConfigError, match="must place each of the 16 experts of pools"):
        placed(f"{__name__}:Partial", group)
