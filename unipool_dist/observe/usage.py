"""The use of a pool's experts: numbers from a table of assignments. Pure numpy.

``counts_LE`` is an int64 array [num_layers, num_pools * M]: how often layer l sent a token to expert i within a window
of steps. Experts have global ids; pool g holds ids ``g * M .. (g + 1) * M - 1`` and serves the layers
``g * G .. (g + 1) * G - 1`` with ``G = num_layers / num_pools``, so only that block of a layer's row may be non-zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unipool_dist.layout.pool_map import PoolMap

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class UsageSummary:
    """The numbers of one window, as the functions of this module define them."""

    dead_share: float
    effective_experts_L: Floats
    busiest_over_mean: float
    ownership: float


def summarize(counts_LE: Counts, num_pools: int = 1) -> UsageSummary:
    """Return all numbers of a window; of several pools, ``busiest_over_mean`` is that of the least balanced one."""
    check_counts(counts_LE, num_pools)
    return UsageSummary(
        dead_share=dead_share(counts_LE),
        effective_experts_L=effective_experts(counts_LE),
        busiest_over_mean=float(busiest_over_mean(counts_LE, num_pools).max()),
        ownership=ownership(counts_LE),
    )


def check_counts(counts_LE: Counts, num_pools: int) -> None:
    """Assert that the table has the form described at the top: a layer uses the experts of its own pool only."""
    assert counts_LE.ndim == 2 and np.issubdtype(counts_LE.dtype, np.integer), "counts are integers [layers, experts]"
    num_layers, num_experts = counts_LE.shape
    assert num_layers % num_pools == 0 and num_experts % num_pools == 0, (counts_LE.shape, num_pools)
    assert (counts_LE >= 0).all(), "a count is negative"
    pools = PoolMap(num_layers, num_layers // num_pools, num_experts // num_pools)
    used_of_own = sum(np.count_nonzero(counts_LE[block_of(pools, pool)]) for pool in range(num_pools))
    assert used_of_own == np.count_nonzero(counts_LE), "a layer used an expert of another layer's pool"


def block_of(pools: PoolMap, pool: int) -> tuple[slice, slice]:
    """Return the rows and columns of a table [L, E] that ``pool`` takes up."""
    layers, experts = pools.layers_of(pool), pools.experts_of(pool)
    return slice(layers.start, layers.stop), slice(experts.start, experts.stop)


def dead_share(counts_LE: Counts) -> float:
    """Return the share of experts that no layer used: ``|{i : sum_l c_li = 0}| / E``, between 0 and 1."""
    return float((counts_LE.sum(axis=0) == 0).mean())


def effective_experts(counts_LE: Counts) -> Floats:
    """Return ``exp(-sum_i p_li ln p_li)`` with ``p_li = c_li / sum_j c_lj``: float64 [L].

    The number of equally used experts that would have the same entropy: 1 if a layer uses one expert only, M if it uses
    all experts of its pool alike, 0 for a layer without assignments.
    """
    totals_L = counts_LE.sum(axis=1)
    p_LE = counts_LE / np.maximum(totals_L, 1)[:, None]
    entropy_L = -np.sum(p_LE * np.log(np.where(p_LE > 0, p_LE, 1.0)), axis=1)
    return np.where(totals_L > 0, np.exp(entropy_L), 0.0)


def busiest_over_mean(counts_LE: Counts, num_pools: int = 1) -> Floats:
    """Return ``max_i n_i / mean_i n_i`` over the M experts of a pool, with ``n_i = sum_l c_li``: float64 [num_pools].

    1 is perfect balance, M means that one expert did everything; an unused pool counts as balanced.
    """
    per_pool = counts_LE.sum(axis=0).reshape(num_pools, -1)
    mean = per_pool.mean(axis=1)
    return np.where(mean > 0, per_pool.max(axis=1) / np.where(mean > 0, mean, 1.0), 1.0)


def ownership(counts_LE: Counts) -> float:
    """Return the share of all assignments that their expert's main layer made: ``sum_i max_l c_li / sum_li c_li``.

    ``1/G`` if layers do not differ, 1 if every expert serves one layer only; experts weigh as much as they are used.
    """
    total = int(counts_LE.sum())
    return float(counts_LE.max(axis=0).sum() / total) if total else 0.0


def spread_over_pools(counts_LM: Counts, num_pools: int) -> Counts:
    """Return assignments [L, M] to each layer's own pool as [L, num_pools * M] by global expert id."""
    num_layers, num_experts = counts_LM.shape
    pools = PoolMap(num_layers, num_layers // num_pools, num_experts)
    spread = np.zeros((num_layers, pools.total_experts), dtype=counts_LM.dtype)
    for pool in range(num_pools):
        rows, columns = block_of(pools, pool)
        spread[rows, columns] = counts_LM[rows]
    return spread
