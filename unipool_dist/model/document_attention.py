"""Causal attention within documents: a kernel for sequences of any length on CUDA, blocks on a CPU, else a mask.

All take the rows of a micro-batch laid end to end (:mod:`unipool_dist.model.documents`).

Shapes: b rows, s sequence, g key/value groups, r queries per group, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from unipool_dist.model.blockwise import BLOCKWISE_LIMIT, Block, attend_in_blocks, document_blocks
from unipool_dist.model.documents import Documents

_VARLEN_TYPES = (torch.bfloat16, torch.float16)
_VARLEN_WIDTH, _VARLEN_STEP = 256, 8
"""The flash kernel takes heads of at most this width, in multiples of this."""
_CAUSAL = (-1, 0)
"""Its window: every key before a query, none after it."""


class DocumentAttention(Protocol):
    """Attention within the documents of one micro-batch; the same for all layers."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend with queries [g, r, b, s, d] to keys and values [g, b, s, d]; shape of the queries."""
        ...


def attention_within(documents: Documents, like: Tensor, head_dim: int) -> DocumentAttention:
    """Choose how to attend within ``documents``, by the device and type of ``like``."""
    if like.device.type == "cpu":
        return BlockwiseDocuments.of(documents, like.dtype)
    fits = head_dim <= _VARLEN_WIDTH and head_dim % _VARLEN_STEP == 0
    if like.device.type == "cuda" and like.dtype in _VARLEN_TYPES and fits:
        return VariableLength.of(documents)
    return Masked(documents)


@dataclass(frozen=True)
class VariableLength:
    """Torch's attention for sequences of variable length, which costs what each document costs alone."""

    documents: Documents
    kernel: Callable[..., Any]
    takes_groups: bool
    """Whether the kernel takes fewer heads of keys than of queries; that of torch 2.11 does not."""

    @classmethod
    def of(cls, documents: Documents) -> VariableLength:
        """Use torch's kernel."""
        from torch.nn.attention.varlen import varlen_attn  # importing it imports torch.compile, which sets variables

        return cls(documents, varlen_attn, "enable_gqa" in signature(varlen_attn).parameters)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend within documents. The kernel takes [b * s, heads, d], heads of one group next to each other."""
        ends, longest = self.documents.cumulative, self.documents.longest
        q, k, v = (x.flatten(0, -4).flatten(1, 2).transpose(0, 1) for x in (query, key, value))
        queries_of_group = query.shape[1]
        options: dict[str, Any] = {"enable_gqa": queries_of_group > 1} if self.takes_groups else {}
        if not self.takes_groups:
            k, v = (x.repeat_interleave(queries_of_group, dim=1) for x in (k, v))
        out: Tensor = self.kernel(q, k, v, ends, ends, longest, longest, window_size=_CAUSAL, **options)
        return out.transpose(0, 1).reshape(query.shape)


@dataclass(frozen=True)
class Masked:
    """Torch's attention with a mask; it computes what the mask hides too. For fp32 on a GPU, and other devices."""

    documents: Documents

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend within documents, row by row."""
        q, k, v = (x.flatten(0, -4).transpose(0, 1) for x in (query, key, value))  # [b, heads, s, d]
        mask = self.documents.visible.unsqueeze(1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=query.shape[1] > 1)
        return out.transpose(0, 1).reshape(query.shape)


@dataclass(frozen=True)
class BlockwiseDocuments:
    """Documents on a CPU: short ones in blocks of queries, each long one by torch's kernel."""

    sizes: tuple[int, ...]
    """Tokens of each piece: a run of short documents, or a long one."""
    blocks: tuple[list[Block] | None, ...]
    """Of each piece; ``None``: a long one."""

    @classmethod
    def of(cls, documents: Documents, dtype: torch.dtype) -> BlockwiseDocuments:
        """Cut the places into pieces, with masks of ``dtype``; those of short documents are as long as can be."""
        pieces = list(_pieces(documents.cumulative.tolist()))
        blocks = tuple(
            document_blocks(documents.begin[piece] - piece.start, dtype) if is_short else None
            for piece, is_short in pieces
        )
        return cls(tuple(piece.stop - piece.start for piece, _ in pieces), blocks)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend within documents, piece by piece."""
        queries, keys, values = (x.flatten(-3, -2).split(self.sizes, dim=-2) for x in (query, key, value))
        out = [
            _causal(q, k, v) if blocks is None else attend_in_blocks(q, k, v, blocks)
            for q, k, v, blocks in zip(queries, keys, values, self.blocks, strict=True)
        ]
        return torch.cat(out, dim=2).view(query.shape)


def _causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend with queries [g, r, s, d] of one document to its keys and values [g, s, d]; shape of the queries."""
    q, k, v = (x.flatten(0, -3).unsqueeze(0) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=query.shape[1] > 1).reshape(query.shape)


def _pieces(cumulative: list[int]) -> Iterator[tuple[slice, bool]]:
    """Yield the places of each run of short documents, and of each long one; and whether they are short."""
    run = 0
    for begin, end in pairwise(cumulative):
        if end - begin > BLOCKWISE_LIMIT:
            if run < begin:
                yield slice(run, begin), True
            yield slice(begin, end), False
            run = end
    if run < cumulative[-1]:
        yield slice(run, cumulative[-1]), True
