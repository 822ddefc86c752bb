"""The client side of an MoE layer: choose experts, order (token, expert) pairs by owner, combine the results.

Shapes: T tokens, K choices of a token, M experts of the layer's pool, E experts of the pool group, R rows dispatched,
D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_TINY = 1e-20
"""Added to a sum of scores that may all be 0; it changes no other sum in fp32."""


@dataclass(frozen=True)
class Routing:
    """The dispatched (token, choice) pairs and their order. No gradient flows through it."""

    expert_TK: Tensor  # expert within the layer's pool
    chosen_TK: Tensor  # bool: has a positive score, so is dispatched
    order: Tensor  # [T * K] flat (token, choice) pairs by placement position; those not dispatched last
    counts_E: Tensor  # int64 rows for every placement position
    counts_M: Tensor  # int64 assignments to every expert of the pool


@torch.no_grad()
def choose(scores_TM: Tensor, top_k: int, bias_M: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the ``top_k`` experts of every token, [T, K], and their scores [T, K]: those of the highest scores.

    With a bias [M], those of the highest sum of score and bias among the experts with a positive score; where these
    are fewer than ``top_k``, the rest have the score 0.
    """
    if bias_M is None:
        score_TK, expert_TK = scores_TM.topk(top_k, dim=-1)
        return expert_TK, score_TK
    expert_TK = (scores_TM + bias_M).masked_fill(scores_TM <= 0, -torch.inf).topk(top_k, dim=-1).indices
    return expert_TK, scores_TM.gather(1, expert_TK)


@torch.no_grad()
def route(
    scores_TM: Tensor, top_k: int, position_M: Tensor, num_positions: int, bias_M: Tensor | None = None
) -> Routing:
    """Choose experts for every token as :func:`choose` does, and say what is to be dispatched where.

    A chosen expert whose score is 0 would add nothing, neither to the output nor to a gradient; it is not dispatched
    and does not count as an assignment. ``position_M``: placement position of each expert of the pool.
    """
    expert_TK, score_TK = choose(scores_TM, top_k, bias_M)
    chosen_TK = score_TK > 0
    positions = torch.where(chosen_TK, position_M[expert_TK], num_positions).flatten()
    order = torch.argsort(positions, stable=True)
    # Not bincount, which waits for the device to learn the largest position.
    counts = torch.zeros(num_positions + 1, dtype=torch.int64, device=positions.device)
    counts_E = counts.scatter_add_(0, positions, torch.ones_like(positions))[:num_positions]
    return Routing(expert_TK, chosen_TK, order, counts_E, counts_E[position_M])


def dispatch(tokens_TD: Tensor, routing: Routing, num_rows: int) -> Tensor:
    """Return the dispatched rows [R, D], one per chosen pair, ordered by placement position."""
    return _Dispatch.apply(tokens_TD, routing, num_rows)


def combine(results_RD: Tensor, scores_TM: Tensor, routing: Routing, normalized: bool = False) -> Tensor:
    """Return ``sum over chosen i of s_i * result_i`` for every token, [T, D]; exact 0 if nothing was dispatched.

    With ``normalized`` the scores of a token's chosen experts are divided by their sum first.
    """
    gate_TK = scores_TM.gather(1, routing.expert_TK)
    if normalized:
        gate_TK = gate_TK / (gate_TK.sum(dim=-1, keepdim=True) + _TINY)
    return _Combine.apply(results_RD, gate_TK.to(results_RD.dtype), routing)


def _rows_of_pairs(rows_RD: Tensor, routing: Routing) -> Tensor:
    """Put rows back to their pairs, [T, K, D], zeros where nothing was dispatched."""
    num_tokens, top_k = routing.expert_TK.shape
    size = (num_tokens * top_k, rows_RD.shape[1])
    out = rows_RD.new_empty(size) if len(rows_RD) == size[0] else rows_RD.new_zeros(size)
    out.index_copy_(0, routing.order[: len(rows_RD)], rows_RD)
    return out.view(num_tokens, top_k, -1)


class _Dispatch(torch.autograd.Function):
    """Gather forward, gather-and-sum backward: unlike index_add, the same bits on every run on a GPU."""

    @staticmethod
    def forward(ctx, tokens_TD: Tensor, routing: Routing, num_rows: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.routing = routing
        return tokens_TD.index_select(0, routing.order[:num_rows] // routing.expert_TK.shape[1])

    @staticmethod
    def backward(ctx, grad_RD: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        pairs_TKD = _rows_of_pairs(grad_RD, ctx.routing)
        return pairs_TKD.squeeze(1) if pairs_TKD.shape[1] == 1 else pairs_TKD.sum(dim=1), None, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, results_RD: Tensor, gate_TK: Tensor, routing: Routing) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.routing = routing
        ctx.save_for_backward(results_RD, gate_TK)
        return torch.einsum("tkd,tk->td", _rows_of_pairs(results_RD, routing), gate_TK)

    @staticmethod
    def backward(ctx, grad_TD: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[no-untyped-def]
        results_RD, gate_TK = ctx.saved_tensors
        routing: Routing = ctx.routing
        pairs = routing.order[: len(results_RD)]
        grad_rows_RD = grad_TD.index_select(0, pairs // gate_TK.shape[1])
        grad_gate = gate_TK.new_zeros(gate_TK.numel())
        grad_gate[pairs] = (grad_rows_RD * results_RD).sum(dim=-1)
        grad_results_RD = grad_rows_RD * gate_TK.flatten()[pairs].unsqueeze(1)
        return grad_results_RD, grad_gate.view_as(gate_TK), None
