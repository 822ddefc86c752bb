"""A router of one's own: `unipool-dist train configs/small.yaml --nproc 4 pool.router=own_router:CosineRouter`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from unipool_dist.config.sections import PoolSection
from unipool_dist.pool.router import Router


class CosineRouter(Router):
    """``s = relu(cos(x, w))``: the angle between token and expert decides, not the length of either."""

    def __init__(self, pool: PoolSection, hidden_size: int) -> None:
        super().__init__(pool, hidden_size)
        self.weight = nn.Parameter(torch.empty(pool.num_experts, hidden_size))  # [M, D]

    def forward(self, tokens_TD: Tensor) -> Tensor:
        """Return scores [T, M] in fp32."""
        return torch.relu(normalize(tokens_TD.float(), dim=-1) @ normalize(self.weight, dim=-1).t())
