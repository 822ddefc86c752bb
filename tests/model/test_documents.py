"""Documents found in tokens, and attention within them: every way to compute it against one document at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unipool_dist.model.blockwise import BLOCKWISE_LIMIT
from unipool_dist.model.document_attention import (
    BlockwiseDocuments,
    DocumentAttention,
    Masked,
    VariableLength,
    attention_within,
)
from unipool_dist.model.documents import Documents
from unipool_dist.model.rotary import RotaryTable

END = 7
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def tokens_of(*rows: list[int]) -> Tensor:
    """Rows of documents with these numbers of tokens; the last of a row goes on after it."""
    lengths = {sum(row) for row in rows}
    tokens = torch.zeros(len(rows), lengths.pop(), dtype=torch.int64)
    for place, row in enumerate(rows):
        tokens[place, torch.tensor(row).cumsum(0)[:-1] - 1] = END
    return tokens


def found(tokens: Tensor) -> Documents:
    documents = Documents.of(tokens, END)
    assert documents is not None
    return documents


def test_a_document_begins_with_a_row_and_after_each_end() -> None:
    tokens = torch.tensor([[1, 2, END, 3, END], [END, END, 4, 5, 6]])
    documents = found(tokens)
    assert documents.cumulative.tolist() == [0, 3, 5, 6, 7, 10]
    assert documents.positions.tolist() == [[0, 1, 2, 0, 1], [0, 0, 0, 1, 2]]
    assert documents.longest == 3
    for row in range(2):
        number = (documents.positions[row] == 0).cumsum(0)
        same = number.unsqueeze(0) == number.unsqueeze(1)
        assert torch.equal(documents.visible[row], same & torch.ones(5, 5, dtype=torch.bool).tril())


def test_rows_of_one_document_each_need_nothing() -> None:
    assert Documents.of(torch.tensor([[1, 2, END], [3, 4, 5]]), END) is None


def test_positions_begin_again() -> None:
    table = RotaryTable(8, 16, 10_000.0)
    x = torch.randn(3, 2, 6, 8)
    rotated = table.rotation(found(tokens_of([2, 4], [3, 3])).positions, torch.float32)(x)
    for row, cuts in enumerate(([2, 4], [3, 3])):
        alone = torch.cat([table.rotate(part) for part in x[:, row].split(cuts, dim=1)], dim=1)
        assert torch.equal(rotated[:, row], alone)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, *sizes: Any, window_size: object, enable_gqa: bool = False
) -> Tensor:
    """What torch's kernel computes, one sequence at a time, on any device: [b * s, heads, d]."""
    ends, ends_k, longest, longest_k = sizes
    assert ends is ends_k and longest == longest_k == int(ends.diff().max()) and window_size == (-1, 0)
    assert ends.dtype == torch.int32 and enable_gqa == (query.shape[1] > key.shape[1])
    heads = (x.transpose(0, 1).split(ends.diff().tolist(), dim=1) for x in (query, key, value))
    out = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=enable_gqa)
        for q, k, v in zip(*heads, strict=True)
    ]
    return torch.cat(out, dim=1).transpose(0, 1)


WAYS: dict[str, Callable[[Documents, torch.dtype], DocumentAttention]] = {
    "blocks": BlockwiseDocuments.of,
    "mask": lambda documents, dtype: Masked(documents),
    "variable length": lambda documents, dtype: VariableLength(documents, _varlen, takes_groups=True),
    "variable length without groups": lambda documents, dtype: VariableLength(documents, _varlen, takes_groups=False),
}
LENGTHS = {
    "short": ([5, 3, 1, 7], [16], [1] * 16),
    "over blocks": ([100, 190, 10], [300], [250, 50]),
    "long ones among short": ([BLOCKWISE_LIMIT + 8, 20, 60], [30, BLOCKWISE_LIMIT + 58]),
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("queries_per_group", [1, 3])
@pytest.mark.parametrize("rows", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("way", WAYS)
def test_attention_within_documents(
    way: str, rows: tuple[list[int], ...], queries_per_group: int, dtype: torch.dtype
) -> None:
    _check(WAYS[way](found(tokens_of(*rows)), dtype), rows, queries_per_group, dtype, "cpu")


@no_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries_per_group", [1, 3])
def test_attention_within_documents_on_a_gpu(queries_per_group: int, dtype: torch.dtype) -> None:
    for rows in LENGTHS.values():
        documents, like = found(tokens_of(*rows).cuda()), torch.empty(0, device="cuda", dtype=dtype)
        attention = attention_within(documents, like, head_dim=8)
        assert isinstance(attention, VariableLength if dtype == torch.bfloat16 else Masked)
        _check(attention, rows, queries_per_group, dtype, "cuda")


def _check(
    attention: DocumentAttention, rows: tuple[list[int], ...], queries_per_group: int, dtype: torch.dtype, device: str
) -> None:
    """Compare values and gradients with every document alone, in fp64 on the same numbers."""
    torch.manual_seed(0)
    b, s, g, d = len(rows), sum(rows[0]), 2, 8
    query = torch.randn(g, queries_per_group, b, s, d)
    key, value = torch.randn(2, g, b, s, d)
    rounded = [x.to(device, dtype).requires_grad_() for x in (query, key, value)]
    exact = [x.detach().double().cpu().requires_grad_() for x in rounded]
    out, expected = attention(*rounded), _one_by_one(rows, *exact)
    assert out.shape == expected.shape and out.dtype == dtype
    grad = torch.randn_like(expected)
    actual = [out, *torch.autograd.grad(out, rounded, grad.to(device, dtype))]
    wanted = [expected, *torch.autograd.grad(expected, exact, grad)]
    for a, b_ in zip(actual, wanted, strict=True):
        assert (a.double().cpu() - b_).norm() <= TOLERANCE[dtype] * b_.norm()


def _one_by_one(rows: tuple[list[int], ...], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of each document by itself, written out: [g, r, b, s, d]."""
    out = []
    for row, lengths in enumerate(rows):
        cut = (x[..., row, :, :].split(lengths, dim=-2) for x in (query, key, value))
        out.append(torch.cat([_attend(*each) for each in zip(*cut, strict=True)], dim=-2))
    return torch.stack(out, dim=2)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    score = query @ key.unsqueeze(1).transpose(-1, -2) / query.shape[-1] ** 0.5
    hidden = torch.ones(score.shape[-2:], dtype=torch.bool).triu(1)
    return score.masked_fill(hidden, float("-inf")).softmax(-1) @ value.unsqueeze(1)


def test_what_nothing_sees_is_not_computed() -> None:
    """Blocks read keys from the document of their first query on, and a long document is no block."""
    attention = BlockwiseDocuments.of(found(tokens_of([250, 150, BLOCKWISE_LIMIT + 1])), torch.float32)
    assert attention.sizes == (400, BLOCKWISE_LIMIT + 1) and attention.blocks[1] is None
    assert attention.blocks[0] is not None
    keys = [(block.keys.start, block.keys.stop) for block in attention.blocks[0]]
    assert keys == [(0, 128), (0, 256), (250, 384), (250, 400)]
