"""Auxiliary losses that balance the use of experts. The loss of a step is the sum of its layers' losses.

Shapes: T tokens, M experts of a pool.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from unipool_dist.base.registry import Registry
from unipool_dist.config.sections import BalanceSection


def balance_loss(share_M: Tensor, mean_score_M: Tensor, alpha: float) -> Tensor:
    """Return ``alpha * M * sum_i f_i P_i``, the Switch loss (arXiv 2101.03961).

    Over one layer or, averaged over layers, over a pool. ``share_M`` is the share of assignments that went to each
    expert (no gradient), ``mean_score_M`` the mean score it got.
    """
    return alpha * len(share_M) * (share_M * mean_score_M).sum()


def scores_for_loss(scores_TM: Tensor, kind: str) -> Tensor:
    """Return scores as they enter the loss: ``raw``, or ``normalized`` so that each token's sum to 1 (0 if all are)."""
    if kind == "raw":
        return scores_TM
    return scores_TM / scores_TM.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(scores_TM.dtype).tiny)


class BalanceLoss(ABC):
    """Base of all losses.

    Args:
        alpha: ``pool.balance.alpha``.
        layers_per_pool: layers that share a pool.
    """

    shares: ClassVar[Literal["pool", "layer"]] = "pool"
    """Whose shares of assignments the loss takes: the pool's in the window before (``pool.balance.window``), or the
    layer's in this micro-batch of one data-parallel rank."""

    def __init__(self, alpha: float, layers_per_pool: int) -> None:
        self.alpha, self.layers_per_pool = alpha, layers_per_pool

    @abstractmethod
    def __call__(self, share_M: Tensor, mean_score_M: Tensor) -> Tensor:
        """Return what one layer and this rank's tokens of one micro-batch contribute; a scalar.

        Args:
            share_M: shares of assignments, without a gradient.
            mean_score_M: this rank's part of the mean score: the sum over its tokens divided by the tokens of the
                whole step. The loss must be linear in it, as contributions are added.
        """


class PoolLoss(BalanceLoss):
    """The Switch loss over all layers of a pool together."""

    def __call__(self, share_M: Tensor, mean_score_M: Tensor) -> Tensor:
        return balance_loss(share_M, mean_score_M, self.alpha / self.layers_per_pool)


class LayerLoss(BalanceLoss):
    """The Switch loss of every layer for itself."""

    shares = "layer"

    def __call__(self, share_M: Tensor, mean_score_M: Tensor) -> Tensor:
        return balance_loss(share_M, mean_score_M, self.alpha)


LOSSES: Registry[type[BalanceLoss]] = Registry(
    "pool.balance.loss", {"pool": PoolLoss, "layer": LayerLoss}, base=BalanceLoss
)


def make_loss(settings: BalanceSection, layers_per_pool: int) -> BalanceLoss | None:
    """Make the loss that ``pool.balance.loss`` names; ``None`` for ``none``.

    Raises:
        ConfigError: there is none of this name, or a user's own cannot be imported.
    """
    return None if settings.loss == "none" else LOSSES[settings.loss](settings.alpha, layers_per_pool)
