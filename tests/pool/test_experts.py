"""Experts' hand-written forward and backward against autograd; weight gradients that wait; extreme row counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unipool_dist.pool.experts import ExpertBank
from unipool_dist.pool.main_grad import main_grad

EXPERTS, HIDDEN, FFN = 5, 16, 24
COUNTS = {
    "spread": [3, 1, 7, 2, 4],
    "some experts get nothing": [0, 5, 0, 9, 0],
    "one expert gets all": [0, 0, 17, 0, 0],
    "nobody gets anything": [0, 0, 0, 0, 0],
}
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2e-2}
DTYPES = [torch.float32, torch.bfloat16]


def _bank(dtype: torch.dtype) -> ExpertBank:
    torch.manual_seed(0)
    bank = ExpertBank(EXPERTS, HIDDEN, FFN, dtype)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.normal_(0, 0.3)
    bank.zero_grad_buffers()
    return bank


def _reference(
    bank: ExpertBank, rows: Tensor, counts: list[int], grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs, and gradients of rows, gate_up and down, by autograd in float64."""
    gate_up, down = (p.detach().double().requires_grad_() for p in (bank.gate_up, bank.down))
    rows = rows.detach().double().requires_grad_()
    outputs = []
    for expert, mine in enumerate(rows.split(counts)):
        gate, up = (mine @ gate_up[expert].t()).chunk(2, dim=-1)
        outputs.append((F.silu(gate) * up) @ down[expert].t())
    out = torch.cat(outputs)
    grad_rows, grad_gate_up, grad_down = torch.autograd.grad(out, (rows, gate_up, down), grad.double())
    return out.detach(), grad_rows, grad_gate_up, grad_down


def _assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.isfinite().all()
    assert (actual.double() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
def test_forward_and_backward_equal_autograd(counts: list[int], dtype: torch.dtype) -> None:
    bank = _bank(dtype)
    rows, grad = torch.randn(2, sum(counts), HIDDEN).to(dtype)
    expected = _reference(bank, rows, counts, grad)
    out, gate_up = bank.run(rows, np.array(counts))
    grad_in = bank.run_backward(rows, gate_up, np.array(counts), grad)
    bank.flush_weight_gradients()
    actual = out, grad_in, main_grad(bank.gate_up), main_grad(bank.down)
    for got, wanted in zip(actual, expected, strict=True):
        _assert_close(got, wanted, TOLERANCE[dtype])
    for expert, count in enumerate(counts):
        if not count:  # exact zeros, not None and not merely small
            assert not main_grad(bank.gate_up)[expert].any() and not main_grad(bank.down)[expert].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_gradients_wait_and_are_added_together(dtype: torch.dtype) -> None:
    bank = _bank(dtype)
    totals = [torch.zeros_like(p, dtype=torch.float64) for p in bank.parameters()]
    for counts in COUNTS.values():
        rows, grad = torch.randn(2, sum(counts), HIDDEN).to(dtype)
        for total, part in zip(totals, _reference(bank, rows, counts, grad)[2:], strict=True):
            total += part
        _, gate_up = bank.run(rows, np.array(counts))
        bank.run_backward(rows, gate_up, np.array(counts), grad)
    assert bank.pending_rows == sum(map(sum, COUNTS.values()))
    assert not any(main_grad(p).any() for p in bank.parameters())
    bank.flush_weight_gradients()
    assert bank.pending_rows == 0
    for parameter, total in zip(bank.parameters(), totals, strict=True):
        assert parameter.grad is None
        _assert_close(main_grad(parameter), total, TOLERANCE[dtype])


def test_gradients_add_up_until_they_are_zeroed() -> None:
    bank, counts = _bank(torch.float32), np.array(COUNTS["spread"])
    rows, grad = torch.randn(2, int(counts.sum()), HIDDEN)

    def once() -> None:
        _, gate_up = bank.run(rows, counts)
        bank.run_backward(rows, gate_up, counts, grad)
        bank.flush_weight_gradients()

    once()
    first = main_grad(bank.down).clone()
    once()
    torch.testing.assert_close(main_grad(bank.down), 2 * first)
    bank.zero_grad_buffers()
    assert not main_grad(bank.down).any()


def test_flushing_nothing_changes_nothing() -> None:
    bank = _bank(torch.float32)
    bank.flush_weight_gradients()
    assert not any(main_grad(p).any() for p in bank.parameters())
