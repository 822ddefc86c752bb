"""Layers, pools and experts: by eye, and that nothing is counted twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from unipool_dist.layout.pool_map import PoolMap


def test_by_eye() -> None:
    pools = PoolMap(num_layers=6, layers_per_pool=2, num_experts=4)
    assert (pools.num_pools, pools.total_experts) == (3, 12)
    assert [pools.pool_of(layer) for layer in range(6)] == [0, 0, 1, 1, 2, 2]
    assert pools.layers_of(1) == range(2, 4) and pools.experts_of(1) == range(4, 8)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 9))
def test_every_layer_and_expert_is_in_one_pool(num_pools: int, layers_per_pool: int, num_experts: int) -> None:
    pools = PoolMap(num_pools * layers_per_pool, layers_per_pool, num_experts)
    assert [layer for pool in range(num_pools) for layer in pools.layers_of(pool)] == list(range(pools.num_layers))
    assert [e for pool in range(num_pools) for e in pools.experts_of(pool)] == list(range(pools.total_experts))
    assert all(layer in pools.layers_of(pools.pool_of(layer)) for layer in range(pools.num_layers))
