"""A router and a balance loss of one's own, named in the configuration.

From this folder (or submitted, then this file is frozen with the job):

    unipool-dist train configs/small.yaml --nproc 4 \\
        pool.router=own_router:CosineRouter pool.balance.loss=own_router:SquareLoss
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from unipool_dist.config.sections import PoolSection
from unipool_dist.pool.losses import BalanceLoss
from unipool_dist.pool.router import Router


class CosineRouter(Router):
    """``s = relu(cos(x, w))``: the angle between token and expert decides, not the length of either."""

    def __init__(self, pool: PoolSection, hidden_size: int) -> None:
        super().__init__(pool, hidden_size)
        self.weight = nn.Parameter(torch.empty(pool.num_experts, hidden_size))  # [M, D]

    def forward(self, tokens_TD: Tensor) -> Tensor:
        """Return scores [T, M] in fp32."""
        return torch.relu(normalize(tokens_TD.float(), dim=-1) @ normalize(self.weight, dim=-1).t())


class SquareLoss(BalanceLoss):
    """``alpha * M / G * sum_i f_i^2 P_i``: weighs the most used experts more than the Switch loss does."""

    def __call__(self, share_M: Tensor, mean_score_M: Tensor) -> Tensor:
        """Return the contribution of one layer and this rank's tokens; linear in their mean scores."""
        weight = self.alpha * len(share_M) / self.layers_per_pool
        return weight * (share_M.square() * mean_score_M).sum()
