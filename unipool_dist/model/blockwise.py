"""Causal attention for short sequences and documents on a CPU, as plain batched products over blocks of queries.

PyTorch's own CPU kernel takes over twice as long in bf16 and a quarter longer in fp32 (torch 2.13, forward and
backward, sequence 256, width 64). The price is that the attention probabilities are kept for backward, half of ``s^2``
for each head, which long sequences cannot afford.

Shapes: n sequences times key/value groups, r queries per group, s sequence, d width of a head, q queries of a block,
k keys they may see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCKWISE_LIMIT = 512
"""Longest sequence, in tokens. With heads of width 64, a token's probabilities are then at most 4 hidden sizes, half of
what its expert keeps."""

_BLOCK = 128
"""Queries in a block: large enough for an efficient product, small enough to skip most of what causality forbids."""


@dataclass(frozen=True)
class Block:
    """Neighbouring queries, and the keys that one of them may see; all others are skipped."""

    queries: slice
    keys: slice
    mask: Tensor
    """[q, k]: 0 where a query may look, else minus infinity."""


def blockwise_causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend with queries [b, g, r, s, d] to keys and values [b, g, s, d]; shape of the queries, contiguous."""
    blocks = causal_blocks(query.shape[3], query)
    return attend_in_blocks(query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), blocks).view(query.shape)


def attend_in_blocks(query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block]) -> Tensor:
    """Attend with queries [n, r, s, d] to keys and values [n, s, d]; shape of the queries, contiguous.

    Args:
        blocks: each query is in one of them; the same for all n.
    """
    attended: Tensor = _Blockwise.apply(query, key, value, blocks)
    return attended


def causal_blocks(length: int, like: Tensor) -> list[Block]:
    """Cut a sequence into blocks whose queries see every token up to themselves; masks are of the type of ``like``."""
    blocks = []
    for queries in _ranges(length):
        size = queries.stop - queries.start
        mask = like.new_full((size, queries.stop), float("-inf")).triu_(queries.start + 1)
        blocks.append(Block(queries, slice(queries.stop), mask))
    return blocks


def document_blocks(begin: Tensor, dtype: torch.dtype) -> list[Block]:
    """Cut documents that lie end to end into blocks whose queries see their own document up to themselves.

    Args:
        begin: int64 [s], on the CPU: for each token, the place where its document begins.
    """
    blocks, place = [], torch.arange(len(begin))
    for queries in _ranges(len(begin)):
        keys = slice(int(begin[queries.start]), queries.stop)
        query, key = place[queries].unsqueeze(1), place[keys]
        hidden = (key > query) | (key < begin[queries].unsqueeze(1))
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))
        blocks.append(Block(queries, keys, mask))
    return blocks


def _ranges(length: int) -> Iterator[slice]:
    """Yield the queries of each block of a sequence."""
    for start in range(0, length, _BLOCK):
        yield slice(start, min(start + _BLOCK, length))


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block]
    ) -> Tensor:
        out = query.new_empty(query.shape)
        kept = []
        for block in blocks:
            query_nqd = _stack(query, block.queries)
            mask = block.mask.repeat(query.shape[1], 1)
            score_nqk = torch.baddbmm(mask, query_nqd, key[:, block.keys].transpose(1, 2), alpha=query.shape[3] ** -0.5)
            probability_nqk = torch.softmax(score_nqk, dim=-1)
            out_block = out[:, :, block.queries]
            out_block.copy_(torch.bmm(probability_nqk, value[:, block.keys]).view_as(out_block))
            kept.append(probability_nqk)
        ctx.places = [(block.queries, block.keys) for block in blocks]
        ctx.save_for_backward(query, key, value, *kept)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[no-untyped-def]
        query, key, value, *kept = ctx.saved_tensors
        scale = query.shape[3] ** -0.5
        grad_query = query.new_empty(query.shape)
        grad_key, grad_value = key.new_zeros(key.shape), value.new_zeros(value.shape)
        for (queries, keys), probability_nqk in zip(ctx.places, kept, strict=True):
            grad_nqd = _stack(grad, queries)
            grad_value[:, keys].baddbmm_(probability_nqk.transpose(1, 2), grad_nqd)
            grad_probability = torch.bmm(grad_nqd, value[:, keys].transpose(1, 2))
            grad_score = torch.ops.aten._softmax_backward_data(grad_probability, probability_nqk, -1, query.dtype)
            grad_key[:, keys].baddbmm_(grad_score.transpose(1, 2), _stack(query, queries), alpha=scale)
            grad_block = grad_query[:, :, queries]
            torch.mul(torch.bmm(grad_score, key[:, keys]).view_as(grad_block), scale, out=grad_block)
        return grad_query, grad_key, grad_value, None


def _stack(x_nrsd: Tensor, queries: slice) -> Tensor:
    """Stack these queries of all r heads of a group, which share keys and values: [n, r * q, d]."""
    return x_nrsd[:, :, queries].flatten(1, 2)
