"""The dense part's hand-written gradients against autograd: attention in blocks, rotation, RMSNorm."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipool_dist.model.attention import causal_attention
from unipool_dist.model.blockwise import BLOCKWISE_LIMIT
from unipool_dist.model.normalization import RMSNorm
from unipool_dist.model.rotary import RotaryTable

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}
DTYPES = list(TOLERANCE)


def _assert_same(
    ours: Callable[..., Tensor], reference: Callable[..., Tensor], inputs: list[Tensor], dtype: torch.dtype
) -> None:
    """Values and gradients of both; the reference runs in float64 on the same numbers."""
    rounded = [x.to(dtype).requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in rounded]
    out, expected = ours(*rounded), reference(*exact)
    assert out.shape == expected.shape and out.dtype == dtype
    grad = torch.randn_like(out)
    actual = [out, *torch.autograd.grad(out, rounded, grad)]
    wanted = [expected, *torch.autograd.grad(expected, exact, grad.double())]
    for a, b in zip(actual, wanted, strict=True):
        assert (a.double() - b).norm() <= TOLERANCE[dtype] * b.norm()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("queries_per_group", [1, 3])
@pytest.mark.parametrize("length", [1, 7, 128, 200, BLOCKWISE_LIMIT + 1])
def test_causal_attention(length: int, queries_per_group: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 2, queries_per_group, length, 8)
    key, value = torch.randn(2, 2, 2, length, 8)

    def reference(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        score = query @ key.unsqueeze(2).transpose(-1, -2) / 8**0.5
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        return (score.masked_fill(hidden, float("-inf")).softmax(-1) @ value.unsqueeze(2)).flatten(1, 2)

    _assert_same(causal_attention, reference, [query, key, value], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotation(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    table = RotaryTable(8, 16, 10_000.0)

    def reference(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        cos, sin = table.cos.to(dtype).double(), table.sin.to(dtype).double()
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    _assert_same(table.rotate, reference, [torch.randn(2, 3, 16, 8)], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = RMSNorm(32, eps=1e-5, dtype=dtype)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        norm.weight = nn.Parameter(weight.detach())
        return torch.func.functional_call(norm, {"weight": weight}, (x,))

    def reference(x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (32,), weight, 1e-5)

    _assert_same(ours, reference, [torch.randn(5, 3, 32), 1 + 0.1 * torch.randn(32)], dtype)
