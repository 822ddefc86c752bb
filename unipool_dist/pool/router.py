"""Routers: the scores a layer gives to the experts of its pool. One per layer, in fp32 whatever the run's type.

Shapes: T tokens, M experts of the pool, D hidden size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from unipool_dist.base.registry import Registry
from unipool_dist.config.sections import PoolSection

NORM_EPSILON = 1e-8
_SAMPLES = 100_000


class Router(nn.Module, ABC):
    """Base of all routers. A router is made of the settings of its pool and the width of the tokens.

    Its parameters are the tensors that are trained, saved and exported, in fp32 and the same on all ranks of a stage.
    Matrices are drawn with ``pool.router_init_std``; everything else begins with ones.
    """

    bias: Tensor | None
    """[M] in fp32, added to the scores when experts are chosen and to nothing else; no parameter, but moved by
    :mod:`unipool_dist.pool.bias`. ``None`` without ``pool.balance.bias_rate``."""

    def __init__(self, pool: PoolSection, hidden_size: int) -> None:
        super().__init__()
        self.register_buffer("bias", torch.zeros(pool.num_experts) if pool.balance.bias_rate else None)

    @abstractmethod
    def forward(self, tokens_TD: Tensor) -> Tensor:
        """Return scores [T, M] in fp32, none below 0; a choice whose score is 0 is not dispatched."""


class NormRouter(Router):
    """``s = scale * c * relu(z / (||z|| + eps))`` with ``z = W x`` (UniPool, arXiv 2605.06665; KERN, arXiv 2509.25913).

    ``scale`` is learned, 1 at the start; ``c`` makes the chosen scores of a token have norm about 1 at the start.
    Scores are not a distribution: they are not negative, many are 0, and they do not sum to 1.
    """

    def __init__(self, pool: PoolSection, hidden_size: int) -> None:
        super().__init__(pool, hidden_size)
        self.weight = nn.Parameter(torch.empty(pool.num_experts, hidden_size))
        self.scale = nn.Parameter(torch.empty(1))
        self.constant = norm_constant(pool.num_experts, pool.top_k)

    def forward(self, tokens_TD: Tensor) -> Tensor:
        """Return scores [T, M] in fp32."""
        logits_TM = tokens_TD.float() @ self.weight.t()
        norms_T1 = torch.linalg.vector_norm(logits_TM, dim=-1, keepdim=True)
        return torch.relu(logits_TM / (norms_T1 + NORM_EPSILON)) * (self.scale * self.constant)


class SoftmaxRouter(Router):
    """``s = softmax(W x)``, taken before the top-k: the router of the vanilla MoE."""

    def __init__(self, pool: PoolSection, hidden_size: int) -> None:
        super().__init__(pool, hidden_size)
        self.weight = nn.Parameter(torch.empty(pool.num_experts, hidden_size))

    def forward(self, tokens_TD: Tensor) -> Tensor:
        """Return scores [T, M] in fp32, each row summing to 1."""
        return torch.softmax(tokens_TD.float() @ self.weight.t(), dim=-1)


class SigmoidRouter(Router):
    """``s = sigmoid(W x)``: scores do not compete, so a bias on their choice can balance the experts.

    From DeepSeek-V3 (arXiv 2412.19437). The gates are the scores, which for ``top_k`` above 1 are not made to sum to 1.
    """

    def __init__(self, pool: PoolSection, hidden_size: int) -> None:
        super().__init__(pool, hidden_size)
        self.weight = nn.Parameter(torch.empty(pool.num_experts, hidden_size))

    def forward(self, tokens_TD: Tensor) -> Tensor:
        """Return scores [T, M] in fp32, each between 0 and 1."""
        return torch.sigmoid(tokens_TD.float() @ self.weight.t())


class NoRouter(Router):
    """``s = 1`` for the only expert there is: the FFN of a dense model. Has no parameters."""

    def forward(self, tokens_TD: Tensor) -> Tensor:
        """Return scores [T, 1] in fp32."""
        return tokens_TD.new_ones(len(tokens_TD), 1, dtype=torch.float32)


ROUTERS: Registry[type[Router]] = Registry(
    "pool.router",
    {"norm": NormRouter, "softmax": SoftmaxRouter, "sigmoid": SigmoidRouter, "none": NoRouter},
    base=Router,
)


def make_router(pool: PoolSection, hidden_size: int) -> Router:
    """Make the router that ``pool.router`` names, not initialised, with a bias of zeros if there is to be one.

    Raises:
        ConfigError: there is none of this name, or a user's own cannot be imported.
    """
    return ROUTERS[pool.router](pool, hidden_size)


def parameter_shapes(pool: PoolSection, hidden_size: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters of one router, by name, without memory for them."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in make_router(pool, hidden_size).named_parameters()}


@lru_cache
def norm_constant(num_experts: int, top_k: int) -> float:
    """Return the mean of ``1 / ||top-k(relu(g / ||g||))||`` over ``g ~ N(0, I_M)`` with a positive component.

    Estimated from a fixed sample, so every rank and every run has the same value. The sample is part of the
    definition: the exact mean is infinite for every M, because the largest component can come arbitrarily close to 0.
    For M above about 16 that is too rare to show, and the estimate is stable to a few parts in a thousand; for
    smaller pools it depends on the sample.
    """
    draws = np.random.RandomState(42)
    total, used, remaining = 0.0, 0, _SAMPLES
    while remaining:
        size = min(remaining, 1_000_000 // num_experts + 1)
        remaining -= size
        gaussian = draws.standard_normal((size, num_experts))
        positive = np.maximum(gaussian / np.linalg.norm(gaussian, axis=1, keepdims=True), 0.0)
        chosen = np.partition(positive, num_experts - top_k, axis=1)[:, num_experts - top_k :]
        norms = np.linalg.norm(chosen, axis=1)
        norms = norms[norms > 0]
        total, used = total + float((1.0 / norms).sum()), used + len(norms)
    return total / used
