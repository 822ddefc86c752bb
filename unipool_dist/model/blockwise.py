"""Causal attention for short sequences on a CPU, as plain batched products over blocks of queries.

PyTorch's own CPU kernel takes over twice as long in bf16 and a quarter longer in fp32 (torch 2.13, forward and
backward, sequence 256, width 64). The price is that the attention probabilities are kept for backward, half of ``s^2``
for each head, which long sequences cannot afford.

Shapes: n sequences times key/value groups, r queries per group, s sequence, d width of a head, q queries of a block,
k keys they may see.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCKWISE_LIMIT = 512
"""Longest sequence, in tokens. With heads of width 64, a token's probabilities are then at most 4 hidden sizes, half of
what its expert keeps."""

_BLOCK = 128
"""Queries in a block: large enough for an efficient product, small enough to skip most of what causality forbids."""


def blockwise_causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend with queries [b, g, r, s, d] to keys and values [b, g, s, d]; shape of the queries, contiguous."""
    return _Blockwise.apply(query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)).view(query.shape)


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        out = query.new_empty(query.shape)
        kept = []
        for block in _blocks(query):
            visible = slice(block.stop)
            query_nqd = _stack(query, block)
            mask = _causal_mask(block, query)
            score_nqk = torch.baddbmm(mask, query_nqd, key[:, visible].transpose(1, 2), alpha=query.shape[3] ** -0.5)
            probability_nqk = torch.softmax(score_nqk, dim=-1)
            _unstack(out, block).copy_(torch.bmm(probability_nqk, value[:, visible]).view_as(_unstack(out, block)))
            kept.append(probability_nqk)
        ctx.save_for_backward(query, key, value, *kept)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[no-untyped-def]
        query, key, value, *kept = ctx.saved_tensors
        scale = query.shape[3] ** -0.5
        grad_query = query.new_empty(query.shape)
        grad_key, grad_value = key.new_zeros(key.shape), value.new_zeros(value.shape)
        for block, probability_nqk in zip(_blocks(query), kept, strict=True):
            visible = slice(block.stop)
            grad_nqd = _stack(grad, block)
            grad_value[:, visible].baddbmm_(probability_nqk.transpose(1, 2), grad_nqd)
            grad_probability = torch.bmm(grad_nqd, value[:, visible].transpose(1, 2))
            grad_score = torch.ops.aten._softmax_backward_data(grad_probability, probability_nqk, -1, query.dtype)
            grad_key[:, visible].baddbmm_(grad_score.transpose(1, 2), _stack(query, block), alpha=scale)
            grad_block = _unstack(grad_query, block)
            torch.mul(torch.bmm(grad_score, key[:, visible]).view_as(grad_block), scale, out=grad_block)
        return grad_query, grad_key, grad_value


def _blocks(query: Tensor) -> Iterator[slice]:
    length = query.shape[2]
    for start in range(0, length, _BLOCK):
        yield slice(start, min(start + _BLOCK, length))


def _stack(x_nrsd: Tensor, block: slice) -> Tensor:
    """Stack the block's queries of all r heads of a group, which share keys and values: [n, r * block, d]."""
    return x_nrsd[:, :, block].flatten(1, 2)


def _unstack(x_nrsd: Tensor, block: slice) -> Tensor:
    return x_nrsd[:, :, block]


def _causal_mask(block: slice, query: Tensor) -> Tensor:
    """Return the mask [r * block, keys seen]: 0 where a query may look, else minus infinity."""
    size = block.stop - block.start
    mask = query.new_full((size, block.stop), float("-inf")).triu_(block.start + 1)
    return mask.repeat(query.shape[1], 1)
