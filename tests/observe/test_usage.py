"""The numbers of expert usage against cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipool_dist.observe import usage
from unipool_dist.observe.figures import expert_order

# Layers 0 and 1, experts 0 to 3; expert 3 is dead.
COUNTS_LE = np.array([[6, 2, 0, 0], [0, 2, 6, 0]], dtype=np.int64)


def test_dead_share_counts_experts_that_no_layer_uses() -> None:
    assert usage.dead_share(COUNTS_LE) == 0.25


def test_effective_experts_is_the_exponential_of_the_entropy() -> None:
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    np.testing.assert_allclose(usage.effective_experts(COUNTS_LE), [expected, expected])


@pytest.mark.parametrize(("row", "expected"), [([5, 0, 0, 0], 1.0), ([3, 3, 3, 3], 4.0), ([0, 0, 0, 0], 0.0)])
def test_effective_experts_at_its_ends(row: list[int], expected: float) -> None:
    np.testing.assert_allclose(usage.effective_experts(np.array([row])), [expected])


def test_busiest_over_mean_is_per_pool() -> None:
    np.testing.assert_allclose(usage.busiest_over_mean(COUNTS_LE), [6 / 4])
    grouped_LE = np.array([[6, 2, 0, 0], [0, 0, 5, 5], [0, 0, 0, 0]])
    np.testing.assert_allclose(usage.busiest_over_mean(grouped_LE[:2], num_pools=2), [6 / 4, 1.0])
    np.testing.assert_allclose(usage.busiest_over_mean(grouped_LE[2:], num_pools=2), [1.0, 1.0])


def test_ownership_weighs_experts_by_use() -> None:
    assert usage.ownership(COUNTS_LE) == (6 + 2 + 6) / 16
    assert usage.ownership(np.array([[1, 0], [0, 9]])) == 1.0
    assert usage.ownership(np.zeros((2, 2), dtype=np.int64)) == 0.0


def test_summary_takes_the_worst_pool() -> None:
    grouped_LE = np.array([[8, 0, 0, 0], [0, 0, 5, 5]])
    summary = usage.summarize(grouped_LE, num_pools=2)
    assert (summary.dead_share, summary.busiest_over_mean, summary.ownership) == (0.25, 2.0, 1.0)


@pytest.mark.parametrize(
    ("counts", "num_pools"),
    [([[1, 1, 0, 0], [0, 1, 1, 1]], 2), ([[1, -1]], 1), ([[1.0, 2.0]], 1), ([[1, 1, 1]], 2)],
)
def test_tables_that_cannot_be_are_refused(counts: list[list[float]], num_pools: int) -> None:
    with pytest.raises(AssertionError):
        usage.check_counts(np.array(counts), num_pools)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_bounds_hold_for_any_table(num_pools: int, layers_per_pool: int, pool_size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts_LE = rng.integers(0, 4, (num_pools * layers_per_pool, num_pools * pool_size))
    own_LE = (np.arange(len(counts_LE)) // layers_per_pool)[:, None] == np.arange(counts_LE.shape[1]) // pool_size
    counts_LE = np.where(own_LE, counts_LE, 0)
    summary = usage.summarize(counts_LE, num_pools)
    assert 0 <= summary.dead_share <= 1
    assert 1 - 1e-9 <= summary.busiest_over_mean <= pool_size + 1e-9
    assert (summary.effective_experts_L <= pool_size + 1e-9).all()
    assert summary.ownership == 0 or 1 / layers_per_pool - 1e-9 <= summary.ownership <= 1
    assert sorted(expert_order(counts_LE, num_pools)) == list(range(counts_LE.shape[1]))


def test_experts_are_sorted_by_main_layer_then_use_with_the_dead_last() -> None:
    counts_LE = np.array([[0, 1, 0, 7, 0], [0, 2, 9, 0, 4]])
    assert expert_order(counts_LE, num_pools=1).tolist() == [3, 2, 4, 1, 0]
