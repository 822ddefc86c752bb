"""One transformer layer: attention, router, and a request to the pool.

Shapes: s sequence, b batch, h hidden, T tokens of this rank (s / tp * b), M experts of the layer's pool.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.profiler import record_function
from torch.utils.checkpoint import checkpoint

from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.comm.megatron import ModelParallelConfig
from unipool_dist.config.plan import Plan
from unipool_dist.model.attention import Attention, Scope
from unipool_dist.model.normalization import RMSNorm
from unipool_dist.pool.client import PoolClient
from unipool_dist.pool.losses import scores_for_loss
from unipool_dist.pool.router import make_router
from unipool_dist.pool.turn import Turn


@dataclass(frozen=True)
class StagePlace:
    """What a stage is built for: the plan of the run, this rank, its layers, and its way to the experts."""

    plan: Plan
    groups: ParallelGroups
    layer_range: range
    megatron: ModelParallelConfig
    """Settings of Megatron's layers."""
    client: PoolClient


class Block(nn.Module):
    """``h = x + attention(norm(x))``, then ``h + pool(norm(h))``.

    Everything before the exchange is the *dense segment*. With ``parallel.recompute`` its activations are not kept
    but computed again in backward; the exchange, the choice of experts and the counting of assignments lie outside it
    and happen once.
    """

    def __init__(self, place: StagePlace, layer: int, slot: int) -> None:
        super().__init__()
        plan, model, dtype = place.plan, place.plan.model, place.megatron.params_dtype
        self.layer, self.slot = layer, slot
        self.attention_norm = RMSNorm(model.hidden_size, eps=model.norm_epsilon, dtype=dtype)
        self.attention = Attention(model, place.megatron, place.groups.tp)
        self.pool_norm = RMSNorm(model.hidden_size, eps=model.norm_epsilon, dtype=dtype)
        self.router = make_router(plan.pool, model.hidden_size)
        self._client = place.client
        self._score_kind = plan.pool.balance.scores
        self._recompute = plan.parallel.recompute

    def forward(self, x: Tensor, scope: Scope, turn: Turn) -> tuple[Tensor, Tensor | None]:
        """Return the layer's output for x [s / tp, b, h], and its share of the auxiliary loss or ``None``.

        Collectives: those of the attention; then the exchange (:class:`unipool_dist.pool.exchange.PoolExchange`).
        """
        if self._recompute and torch.is_grad_enabled():
            h, tokens_TD, scores_TM, score_sum_M = checkpoint(
                self._dense_segment, x, scope, use_reentrant=False, preserve_rng_state=False
            )
        else:
            h, tokens_TD, scores_TM, score_sum_M = self._dense_segment(x, scope)
        out_TD, aux = self._client.run(self.layer, self.slot, turn, tokens_TD, scores_TM, score_sum_M, self.router.bias)
        return self.add_experts(h, out_TD.view_as(h)), aux

    def attend(self, x: Tensor, scope: Scope) -> Tensor:
        """Add attention to x [s / tp, b, h]. Collectives: those of the attention."""
        return x + self.attention(self.attention_norm(x), scope)

    def add_experts(self, h: Tensor, out: Tensor) -> Tensor:
        """Add what the pool returned, both [s / tp, b, h]."""
        return h + out

    def _dense_segment(self, x: Tensor, scope: Scope) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with record_function("attention"):
            h = self.attend(x, scope)
        tokens_TD = self.pool_norm(h).flatten(0, 1)
        scores_TM = self.router(tokens_TD)
        return h, tokens_TD, scores_TM, scores_for_loss(scores_TM, self._score_kind).sum(dim=0)
