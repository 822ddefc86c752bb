"""The rank grid: small layouts by eye, all layouts by property."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipool_dist.config import load_config, outline
from unipool_dist.errors import TopologyError
from unipool_dist.layout.pool_map import PoolMap
from unipool_dist.layout.rank_grid import RankGrid


def test_by_eye() -> None:
    grid = RankGrid(pp=2, dp=2, tp=2, pool_parallel_size=4, stages_per_group=2)
    assert [grid.coordinates(rank) for rank in (0, 1, 2, 4, 7)] == [
        (0, 0, 0),
        (0, 0, 1),
        (0, 1, 0),
        (1, 0, 0),
        (1, 1, 1),
    ]
    assert grid.pool_groups() == [(0, 1, 4, 5), (2, 3, 6, 7)]
    assert grid.expert_data_groups((0, 0)) == [(0, 2), (1, 3), (4, 6), (5, 7)]
    one_stage = RankGrid(pp=2, dp=2, tp=1, pool_parallel_size=2, stages_per_group=1)
    assert one_stage.pool_groups() == [(0, 1), (2, 3)]
    assert one_stage.expert_data_groups((0, 1)) == [(0, 2), (1, 3)]


@st.composite
def grids(draw: st.DrawFn) -> RankGrid:
    pp, dp, tp = (draw(st.integers(1, 4)) for _ in range(3))
    n = draw(st.sampled_from([n for n in range(1, pp + 1) if pp % n == 0]))
    block = draw(st.sampled_from([b for b in range(1, dp * tp + 1) if dp * tp % b == 0]))
    return RankGrid(pp, dp, tp, n * block, n)


@given(grids())
@settings(max_examples=200, deadline=None)
def test_groups_partition_the_ranks(grid: RankGrid) -> None:
    everybody = list(range(grid.world_size))
    assert sorted(rank for group in grid.pool_groups() for rank in group) == everybody
    replicas = grid.expert_data_groups((0, grid.num_stage_groups - 1))
    assert sorted(rank for group in replicas for rank in group) == everybody
    for group in grid.pool_groups():
        assert len(group) == grid.pool_parallel_size
        stages = [grid.coordinates(rank)[0] for rank in group]
        assert stages == sorted(stages) and len(set(stages)) == grid.stages_per_group
        first = stages[0]
        assert [stage - first for stage in stages] == [grid.stage_of_pool_rank(i) for i in range(len(group))]
        assert all(len({group.index(rank) for rank in others if rank in group}) <= 1 for others in replicas)
    for others in replicas:
        places = {grid.pool_group_of(rank).index(rank) for rank in others}
        assert len(places) == 1, "replicas own the same experts, so they have the same pool rank"


@given(grids(), st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_layers_are_cut_into_even_runs(grid: RankGrid, extra: int) -> None:
    num_layers = grid.pp + extra
    stages = grid.layers_of_stage(num_layers)
    assert [layer for layers in stages for layer in layers] == list(range(num_layers))
    sizes = [len(layers) for layers in stages]
    assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)


def test_pool_spans() -> None:
    grid = RankGrid(pp=4, dp=1, tp=1, pool_parallel_size=1, stages_per_group=1)
    assert grid.pool_spans(PoolMap(8, 8, 1)) == [(0, 3)]
    assert grid.pool_spans(PoolMap(8, 4, 1)) == [(0, 1), (2, 3)]
    assert grid.pool_spans(PoolMap(8, 2, 1)) == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_pools_that_straddle_stage_groups_are_refused() -> None:
    overrides = ["model.num_layers=6", "pool.layers_per_group=2", "pool.stages_per_group=1", "parallel.pp=2"]
    with pytest.raises(TopologyError, match=r"pool\.layers_per_group=2 .* set pool\.stages_per_group=2"):
        outline(load_config(None, overrides), 2)
