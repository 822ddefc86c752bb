"""The traffic of pools on layouts: whose rows meet in which slot, and what leaves ranks, stages and nodes."""

from __future__ import annotations

import numpy as np

from unipool_dist.layout.pool_map import PoolMap
from unipool_dist.layout.rank_grid import RankGrid
from unipool_dist.placement.traffic import contiguous_owners
from unipool_dist.pool.placement import Usage, placement_of
from unipool_dist.pool.pool_traffic import PoolLayout

COUNTS = np.arange(1, 4 * 8 + 1).reshape(4, 8)


def _layout(grid: RankGrid, pools: PoolMap, per_node: int) -> PoolLayout:
    return PoolLayout(grid, pools, tuple(rank - rank % per_node for rank in range(grid.world_size)), 600)


def test_layers_of_a_slot_are_served_together() -> None:
    layout = _layout(RankGrid(2, 2, 1, 4, 2), PoolMap(4, 4, 8), per_node=2)
    seen = layout.traffic(0, COUNTS)
    np.testing.assert_array_equal(seen.rows_SKE, COUNTS.reshape(2, 2, 8))
    assert seen.topology.node_R.tolist() == [0, 0, 1, 1] and seen.crossing_cost == 10.0


def test_on_one_node_stages_are_kept_apart_instead() -> None:
    layout = _layout(RankGrid(2, 2, 1, 4, 2), PoolMap(4, 4, 8), per_node=4)
    seen = layout.traffic(0, COUNTS)
    assert seen.topology.node_R.tolist() == [0, 0, 1, 1] and seen.crossing_cost < 2


def test_copies_of_a_pool_are_seen_together() -> None:
    """A copy for each of two stages: what both send to an expert is computed by its owner in either copy."""
    layout = _layout(RankGrid(2, 2, 1, 2, 1), PoolMap(4, 4, 8), per_node=2)
    np.testing.assert_array_equal(layout.traffic(0, COUNTS).rows_SKE[0], COUNTS[:2] + COUNTS[2:])


def test_each_pool_sees_its_own_layers_in_their_slots() -> None:
    layout = _layout(RankGrid(1, 2, 1, 2, 1), PoolMap(4, 2, 8), per_node=2)
    rows = layout.traffic(1, COUNTS).rows_SKE
    np.testing.assert_array_equal(rows[0], np.concatenate([np.zeros((2, 8)), COUNTS[2:]]))


def test_shares_that_leave() -> None:
    grid = RankGrid(2, 2, 1, 4, 2)
    counts = np.zeros((4, 8), dtype=np.int64)
    counts[0, 0], counts[3, 0] = 6, 2  # the owner is the first rank, of the first stage
    shares = _layout(grid, PoolMap(4, 4, 8), per_node=2).shares_leaving(counts, {0: contiguous_owners(8, 4)})
    # Half of the first stage's rows are on the owner already; the second stage's all come from the other node.
    assert shares == {"rank": 1 - 3 / 8, "stage": 2 / 8, "node": 2 / 8}


def test_the_policy_moves_only_for_a_gain() -> None:
    layout = _layout(RankGrid(2, 1, 1, 2, 2), PoolMap(4, 4, 8), per_node=1)
    counts = np.zeros((4, 8), dtype=np.int64)
    counts[:2, 4:], counts[2:, :4] = 10, 10  # each stage uses the other's
    seen, now = layout.traffic(0, counts), contiguous_owners(8, 2)
    better = Usage().improve(seen, now)
    assert better is not None and better.tolist() == [1] * 4 + [0] * 4
    assert Usage().improve(seen, better) is None
    assert Usage().improve(layout.traffic(0, np.zeros_like(counts)), now) is None


def test_owners_become_a_placement() -> None:
    owners = {1: np.array([1, 0, 1, 0]), 0: np.array([0, 0, 1, 1])}
    assert placement_of(owners, 4, 2).order == (0, 1, 5, 7, 2, 3, 4, 6)
