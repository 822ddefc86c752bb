"""Balance by a bias on the choice of experts instead of a loss (arXiv 2408.15664): it does not change any gradient.

Shapes: L layers, M experts of a pool.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unipool_dist.layout.pool_map import PoolMap


@torch.no_grad()
def move_biases(bias_of: Mapping[int, Tensor], assignments_LM: Tensor, pools: PoolMap, rate: float) -> None:
    """Move the bias [M] of every layer, in place, by ``rate * sign(mean load - load)``.

    The load is that of the step over all layers of the pool and all ranks, so layers of one pool have equal biases; in
    the ordinary MoE, where a pool is a layer's, this is the rule of the source. Loads are whole numbers, so that all
    layouts move alike.

    Args:
        bias_of: by global number, the biases of layers that this rank has.
        assignments_LM: int64, from :meth:`unipool_dist.pool.balance.Balance.end_step`.
    """
    for layer, bias_M in bias_of.items():
        layers = pools.layers_of(pools.pool_of(layer))
        load_M = assignments_LM[layers.start : layers.stop].sum(dim=0)
        bias_M += rate * torch.sign(load_M.sum() - pools.num_experts * load_M)
