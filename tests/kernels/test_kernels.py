"""Every kernel against the reference in fp64; weight gradients that wait; extreme row counts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from unipool_dist.kernels import kernel_for
from unipool_dist.kernels.cpu import CpuKernel
from unipool_dist.kernels.cuda import CudaKernel, slices_of
from unipool_dist.kernels.host_arrays import to_device
from unipool_dist.kernels.protocol import ExpertKernel, ExpertWeights
from unipool_dist.kernels.reference import ReferenceKernel
from unipool_dist.pool.experts import ExpertBank
from unipool_dist.pool.main_grad import main_grad

EXPERTS, HIDDEN, FFN = 5, 16, 24
COUNTS = {
    "spread": [3, 1, 7, 2, 4],
    "some experts get nothing": [0, 5, 0, 9, 0],
    "one expert gets all": [0, 0, 17, 0, 0],
    "nobody gets anything": [0, 0, 0, 0, 0],
    "one expert": [6],
}
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2e-2}
DTYPES = [torch.float32, torch.bfloat16]
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
KERNELS = [
    pytest.param(ReferenceKernel(), "cpu", id="reference"),
    pytest.param(CpuKernel(), "cpu", id="cpu"),
    pytest.param(CudaKernel(), "cpu", id="cuda-on-cpu"),
    pytest.param(CudaKernel(), "cuda", id="cuda", marks=no_gpu),
]


def _bank(kernel: ExpertKernel, device: str, dtype: torch.dtype, experts: int = EXPERTS) -> ExpertBank:
    torch.manual_seed(0)
    bank = ExpertBank(experts, HIDDEN, FFN, dtype, kernel)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.normal_(0, 0.3)
    bank.to(device)
    bank.zero_grad_buffers()
    return bank


def _rows_and_grad(counts: list[int], device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    rows, grad = torch.randn(2, sum(counts), HIDDEN).to(device, dtype)
    return rows, grad


def _reference(bank: ExpertBank, rows: Tensor, counts: list[int], grad: Tensor) -> tuple[Tensor, ...]:
    """Outputs, and gradients of rows, gate_up and down, by the reference kernel in fp64."""
    kernel, numbers = ReferenceKernel(), np.array(counts)
    weights = ExpertWeights(bank.gate_up.detach().double(), bank.down.detach().double())
    out, saved = kernel.forward(rows.double(), weights, numbers)
    grad_rows, work = kernel.backward(saved, weights, numbers, grad.double())
    gradients = ExpertWeights(*(torch.zeros_like(weight) for weight in weights))
    kernel.flush([work], gradients)
    return out, grad_rows, *gradients


def _assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.isfinite().all()
    assert (actual.double() - expected).norm() <= tolerance * expected.norm()


def test_the_reference_is_the_derivative_of_the_formula() -> None:
    """By differences: moving rows or weights a little changes the outputs as the gradients say."""
    torch.manual_seed(1)
    counts = np.array([2, 0, 3])
    rows, grad, step = torch.randn(3, 5, HIDDEN, dtype=torch.float64).unbind()
    weights = ExpertWeights(torch.randn(3, 2 * FFN, HIDDEN).double(), torch.randn(3, HIDDEN, FFN).double())
    kernel, epsilon = ReferenceKernel(), 1e-6
    for expert, mine in enumerate(rows.split(counts.tolist())):
        gate, up = mine @ weights.gate_up[expert, :FFN].t(), mine @ weights.gate_up[expert, FFN:].t()
        wanted = (gate / (1 + torch.exp(-gate)) * up) @ weights.down[expert].t()
        out = kernel.forward(rows, weights, counts)[0].split(counts.tolist())[expert]
        torch.testing.assert_close(out, wanted)
    grad_in, work = kernel.backward((rows,), weights, counts, grad)
    steps = (step, *(torch.randn_like(weight) for weight in weights))
    for place, (gradient, change) in enumerate(zip((grad_in, *work.tensors), steps, strict=True)):
        moved = [rows, *weights]
        ends = []
        for sign in (1, -1):
            moved[place] = (rows, *weights)[place] + sign * epsilon * change
            ends.append((kernel.forward(moved[0], ExpertWeights(*moved[1:]), counts)[0] * grad).sum())
        torch.testing.assert_close((gradient * change).sum(), (ends[0] - ends[1]) / (2 * epsilon), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize(("kernel", "device"), KERNELS)
def test_forward_and_backward_equal_the_reference(
    kernel: ExpertKernel, device: str, counts: list[int], dtype: torch.dtype
) -> None:
    bank = _bank(kernel, device, dtype, len(counts))
    rows, grad = _rows_and_grad(counts, device, dtype)
    expected = _reference(bank, rows, counts, grad)
    out, saved = bank.run(rows, np.array(counts))
    assert all(len(tensor) == len(rows) for tensor in saved), "saved tensors have one row per row"
    grad_in = bank.run_backward(saved, np.array(counts), grad)
    bank.flush_weight_gradients()
    actual = out, grad_in, main_grad(bank.gate_up), main_grad(bank.down)
    for got, wanted in zip(actual, expected, strict=True):
        _assert_close(got, wanted, TOLERANCE[dtype])
    for expert, count in enumerate(counts):
        if not count:  # exact zeros, not None and not merely small
            assert not main_grad(bank.gate_up)[expert].any() and not main_grad(bank.down)[expert].any()


@pytest.mark.parametrize(("kernel", "device"), KERNELS)
def test_saved_rows_of_several_forwards_join_in_one_backward(kernel: ExpertKernel, device: str) -> None:
    """What the server does: rows of expert 0 of two forwards, then of expert 1, in one backward."""
    bank = _bank(kernel, device, torch.float32, 2)
    rows, grad = _rows_and_grad([2, 3], device, torch.float32)
    expected = _reference(bank, rows, [2, 3], grad)
    first, second = torch.tensor([0, 2, 3], device=device), torch.tensor([1, 4], device=device)
    saved = [bank.run(rows[part], np.array(counts))[1] for part, counts in ((first, [1, 2]), (second, [1, 1]))]
    order = torch.argsort(torch.cat([first, second]))
    joined = tuple(torch.cat(parts)[order] for parts in zip(*saved, strict=True))
    grad_in = bank.run_backward(joined, np.array([2, 3]), grad)
    bank.flush_weight_gradients()
    for got, wanted in zip((grad_in, main_grad(bank.gate_up), main_grad(bank.down)), expected[1:], strict=True):
        _assert_close(got, wanted, TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kernel", "device"), KERNELS)
def test_weight_gradients_wait_and_are_added_together(kernel: ExpertKernel, device: str, dtype: torch.dtype) -> None:
    bank = _bank(kernel, device, dtype)
    totals = [torch.zeros_like(p, dtype=torch.float64) for p in bank.parameters()]
    every = [counts for counts in COUNTS.values() if len(counts) == EXPERTS]
    for counts in every:
        rows, grad = _rows_and_grad(counts, device, dtype)
        for total, part in zip(totals, _reference(bank, rows, counts, grad)[2:], strict=True):
            total += part
        _, saved = bank.run(rows, np.array(counts))
        bank.run_backward(saved, np.array(counts), grad)
    assert bank.pending_rows == sum(map(sum, every))
    assert not any(main_grad(p).any() for p in bank.parameters())
    bank.flush_weight_gradients()
    assert bank.pending_rows == 0
    for parameter, total in zip(bank.parameters(), totals, strict=True):
        assert parameter.grad is None
        _assert_close(main_grad(parameter), total, TOLERANCE[dtype])


@pytest.mark.parametrize(("kernel", "device"), KERNELS)
def test_gradients_add_up_until_they_are_zeroed(kernel: ExpertKernel, device: str) -> None:
    bank, counts = _bank(kernel, device, torch.float32), np.array(COUNTS["spread"])
    rows, grad = _rows_and_grad(COUNTS["spread"], device, torch.float32)

    def once() -> None:
        _, saved = bank.run(rows, counts)
        bank.run_backward(saved, counts, grad)
        bank.flush_weight_gradients()

    once()
    first = main_grad(bank.down).clone()
    once()
    torch.testing.assert_close(main_grad(bank.down), 2 * first)
    bank.zero_grad_buffers()
    assert not main_grad(bank.down).any()


@pytest.mark.parametrize(("kernel", "device"), KERNELS)
def test_flushing_nothing_changes_nothing(kernel: ExpertKernel, device: str) -> None:
    bank = _bank(kernel, device, torch.float32)
    bank.flush_weight_gradients()
    assert not any(main_grad(p).any() for p in bank.parameters())


def test_the_device_chooses_the_kernel() -> None:
    assert isinstance(kernel_for(torch.device("cpu")), CpuKernel)
    assert isinstance(kernel_for(torch.device("cuda", 0)), CudaKernel)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([0, 0], []),
        ([2, 3], [(slice(0, 2), slice(0, 5))]),
        ([0, 4, 0, 1, 0], [(slice(1, 4), slice(0, 5))]),
    ],
)
def test_experts_of_other_pools_are_not_groups_of_a_product(
    counts: list[int], expected: list[tuple[slice, slice]]
) -> None:
    assert slices_of(np.array(counts)) == expected


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=no_gpu)])
@pytest.mark.parametrize("experts", [1023, 1024, 4096])
def test_any_number_of_experts_on_a_rank(experts: int, device: str) -> None:
    """The grouped product of torch takes at most 1,023."""
    counts = np.zeros(experts, dtype=np.int64)
    counts[[0, 1, 1022, -1]] = [3, 0, 2, 4]
    cuts = slices_of(counts)
    assert max(cut.stop - cut.start for cut, _ in cuts) <= 1023
    assert [cut.start for cut, _ in cuts] == list(range(0, experts, 1023)) and cuts[-1][0].stop == experts
    assert cuts[-1][1].stop == counts.sum() and all(a[1].stop == b[1].start for a, b in pairwise(cuts))
    bank = _bank(CudaKernel(), device, torch.bfloat16, experts)
    rows, grad = _rows_and_grad(counts.tolist(), device, torch.bfloat16)
    used = np.flatnonzero(counts)
    small = _bank(ReferenceKernel(), device, torch.bfloat16, len(used))
    with torch.no_grad():
        small.gate_up.copy_(bank.gate_up[used])
        small.down.copy_(bank.down[used])
    expected = _reference(small, rows, counts[used].tolist(), grad)
    out, saved = bank.run(rows, counts)
    grad_in = bank.run_backward(saved, counts, grad)
    bank.flush_weight_gradients()
    actual = (out, grad_in, main_grad(bank.gate_up)[used], main_grad(bank.down)[used])
    for got, wanted in zip(actual, expected, strict=True):
        _assert_close(got, wanted, TOLERANCE[torch.bfloat16])


@no_gpu
def test_an_array_goes_to_the_gpu_without_waiting() -> None:
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.set_sync_debug_mode("error")
        try:
            arrived = to_device(np.arange(5), torch.device("cuda"))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert arrived.tolist() == [0, 1, 2, 3, 4]
