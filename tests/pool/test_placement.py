"""Who owns which expert: every expert exactly once, equally many everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from unipool_dist.pool.placement import contiguous_placement


@pytest.mark.parametrize("pools", [[0], [0, 1, 2], [3, 4]])
@pytest.mark.parametrize("q", [1, 2, 4, 8])
def test_every_expert_has_one_owner(pools: list[int], q: int) -> None:
    placement = contiguous_placement(pools, 16, q)
    owned = [placement.experts_of(rank) for rank in range(q)]
    wanted = [pool * 16 + expert for pool in pools for expert in range(16)]
    assert sorted(expert for experts in owned for expert in experts) == wanted
    assert {len(experts) for experts in owned} == {len(pools) * 16 // q}
    for rank, experts in enumerate(owned):
        for slot, expert in enumerate(experts):
            position = placement.position[expert]
            assert divmod(position, placement.experts_per_rank) == (rank, slot)


def test_each_rank_owns_its_share_of_every_pool() -> None:
    placement = contiguous_placement([0, 1], 8, 2)
    assert placement.experts_of(0) == (0, 1, 2, 3, 8, 9, 10, 11)
    assert placement.experts_of(1) == (4, 5, 6, 7, 12, 13, 14, 15)


def test_experts_of_other_pools_have_no_position() -> None:
    placement = contiguous_placement([1], 4, 2)
    assert placement.position[:4].tolist() == [-1] * 4
    assert np.sort(placement.position[4:]).tolist() == [0, 1, 2, 3]
