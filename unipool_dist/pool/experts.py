"""The experts that one rank owns: SwiGLU feed-forward networks, run on rows sorted by expert.

Forward and backward are written out instead of recorded, because a backward half-tick joins rows of different forward
half-ticks, and because gradients are added in place to one fp32 buffer.

Shapes: e experts of this rank, D hidden size, F hidden width of an expert, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipool_dist.pool.main_grad import main_grad, zero_main_grad


class ExpertBank(nn.Module):
    """``expert(x) = down (silu(gate x) * up x)`` for every expert of this rank.

    ``gate_up`` [e, 2F, D] holds gate, then up; ``down`` is [e, D, F]. Gradients are summed into ``main_grad`` (fp32,
    same shape), never into ``.grad``; :meth:`zero_grad_buffers` makes exact zeros, not ``None``.

    Weight gradients wait: rows whose input gradients are done are kept until :meth:`flush_weight_gradients`, so that
    an expert used by several layers is updated by one product over all their rows instead of one small product per
    layer.
    """

    def __init__(self, num_local_experts: int, hidden_size: int, ffn_hidden_size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(num_local_experts, 2 * ffn_hidden_size, hidden_size, dtype=dtype))
        self.down = nn.Parameter(torch.empty(num_local_experts, hidden_size, ffn_hidden_size, dtype=dtype))
        self._pending: list[_Pending] = []

    def zero_grad_buffers(self) -> None:
        """Zero the fp32 gradient buffers, making them on first use."""
        assert not self._pending
        for parameter in self.parameters():
            zero_main_grad(parameter)

    @torch.no_grad()
    def run(self, rows_RD: Tensor, counts: np.ndarray) -> tuple[Tensor, Tensor]:
        """Outputs [R, D] of rows sorted by expert, ``counts[e]`` each, and what backward needs: gate and up [R, 2F]."""
        if rows_RD.is_cuda:
            gate_up_RF = _grouped_linear(rows_RD, self.gate_up, counts)
            return _grouped_linear(_swiglu(gate_up_RF), self.down, counts), gate_up_RF
        # On a CPU expert by expert, so that what is between the two products stays in the cache.
        gate_up_RF = rows_RD.new_empty(len(rows_RD), self.gate_up.shape[1])
        out_RD = torch.empty_like(rows_RD)
        for rows, gate_up, out, weight_in, weight_out in _by_expert(
            counts, (rows_RD, gate_up_RF, out_RD), (self.gate_up, self.down)
        ):
            _linear(rows, weight_in, out=gate_up)
            _linear(_swiglu(gate_up), weight_out, out=out)
        return out_RD, gate_up_RF

    @torch.no_grad()
    def run_backward(self, rows_RD: Tensor, gate_up_RF: Tensor, counts: np.ndarray, grad_RD: Tensor) -> Tensor:
        """Gradients [R, D] with respect to the rows; keeps what the weight gradients need.

        ``gate_up_RF``, as :meth:`run` returned it, is overwritten by its gradient; it and the other arguments must not
        change before :meth:`flush_weight_gradients`.
        """
        gate_up_t, down_t = self.gate_up.transpose(1, 2), self.down.transpose(1, 2)
        hidden_RF = gate_up_RF.new_empty(len(gate_up_RF), self.down.shape[2])
        if rows_RD.is_cuda:
            _swiglu_backward_(gate_up_RF, _grouped_linear(grad_RD, down_t, counts), hidden_out=hidden_RF)
            grad_in_RD = _grouped_linear(gate_up_RF, gate_up_t, counts)
        else:
            grad_in_RD = torch.empty_like(rows_RD)
            for grad, gate_up, hidden, grad_in, weight_in, weight_out in _by_expert(
                counts, (grad_RD, gate_up_RF, hidden_RF, grad_in_RD), (gate_up_t, down_t)
            ):
                _swiglu_backward_(gate_up, _linear(grad, weight_out), hidden_out=hidden)
                _linear(gate_up, weight_in, out=grad_in)
        if len(rows_RD):
            self._pending.append(_Pending(counts, rows_RD, gate_up_RF, hidden_RF, grad_RD))
        return grad_in_RD

    @torch.no_grad()
    def flush_weight_gradients(self) -> None:
        """Add the weight gradients of all rows that wait."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        # Expert by expert: one expert's rows of all layers fit a CPU's cache, while joining those of all experts
        # would make a second copy of everything that waits.
        for expert, items in enumerate(zip(*(item.split() for item in pending), strict=True)):
            parts = [rows for rows in items if len(rows[0])]
            if parts:
                rows_RD, grad_gate_up_RF, hidden_RF, grad_RD = map(_joined, zip(*parts, strict=True))
                _add_product(main_grad(self.gate_up)[expert], grad_gate_up_RF, rows_RD)
                _add_product(main_grad(self.down)[expert], grad_RD, hidden_RF)

    @property
    def pending_rows(self) -> int:
        return sum(len(item.rows_RD) for item in self._pending)


@dataclass(frozen=True)
class _Pending:
    """Rows whose weight gradients are still to be added; sorted by expert."""

    counts: np.ndarray
    rows_RD: Tensor
    grad_gate_up_RF: Tensor
    hidden_RF: Tensor
    grad_RD: Tensor

    def split(self) -> Iterator[tuple[Tensor, ...]]:
        """The four kinds of rows of every expert, in the order of the fields."""
        sizes = self.counts.tolist()
        kinds = (self.rows_RD, self.grad_gate_up_RF, self.hidden_RF, self.grad_RD)
        return zip(*(rows.split(sizes) for rows in kinds), strict=True)


def _swiglu(gate_up_RF: Tensor) -> Tensor:
    gate, up = gate_up_RF.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def _swiglu_backward_(gate_up_RF: Tensor, grad_hidden_RF: Tensor, *, hidden_out: Tensor) -> None:
    """Turn ``gate_up_RF`` into its gradient, and write into ``hidden_out`` [R, F] what :func:`_swiglu` had returned."""
    gate, up = gate_up_RF.chunk(2, dim=-1)
    silu_RF = F.silu(gate)
    torch.mul(silu_RF, up, out=hidden_out)
    grad_silu_RF = grad_hidden_RF * up
    torch.mul(grad_hidden_RF, silu_RF, out=up)
    torch.ops.aten.silu_backward.grad_input(grad_silu_RF, gate, grad_input=gate)


def _by_expert(
    counts: np.ndarray, rows: tuple[Tensor, ...], weights: tuple[Tensor, ...]
) -> Iterator[tuple[Tensor, ...]]:
    """For every expert that has rows, its part of all ``rows`` (sorted by expert) and of all ``weights``."""
    sizes = counts.tolist()
    for size, *parts in zip(sizes, *(t.split(sizes) for t in rows), *(t.unbind() for t in weights), strict=True):
        if size:
            yield tuple(parts)


def _linear(rows_RX: Tensor, weight_YX: Tensor, *, out: Tensor | None = None) -> Tensor:
    """``rows @ weight.T`` of one expert.

    The weight is read once from end to end before it is used. With a few dozen rows for an expert the product is
    bound by reading it from memory, and a matrix library reads it in an order that keeps a CPU's prefetcher from
    running ahead. From the cache, the products of a layer took 10 to 13 percent less time, this pass included (32 rows
    for each of 64 experts of width 256 and 1024, fp32 and bf16, one core with 1 MB of L2 cache).
    """
    if not rows_RX.is_cuda:
        weight_YX.sum()
    return torch.mm(rows_RX, weight_YX.t(), out=out)


def _grouped_linear(rows_RX: Tensor, weight_EYX: Tensor, counts: np.ndarray) -> Tensor:
    """``rows @ weight[e].T`` for the rows of every expert e.

    In bf16 on a GPU this is one grouped product, if rows begin at multiples of 16 bytes, which that asks for. On a CPU
    that is a loop too, and no faster than this one.
    """
    is_aligned = rows_RX.shape[1] % 8 == 0 and weight_EYX.shape[1] % 8 == 0
    if rows_RX.is_cuda and rows_RX.dtype == torch.bfloat16 and len(rows_RX) and is_aligned:
        offsets = torch.from_numpy(np.cumsum(counts)).to(device=rows_RX.device, dtype=torch.int32)
        return F.grouped_mm(rows_RX, weight_EYX.transpose(1, 2), offs=offsets)
    out_RY = rows_RX.new_empty(len(rows_RX), weight_EYX.shape[1])
    for rows, out, weight in _by_expert(counts, (rows_RX, out_RY), (weight_EYX,)):
        _linear(rows, weight, out=out)
    return out_RY


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _add_product(main_grad_YX: Tensor, grad_RY: Tensor, rows_RX: Tensor) -> None:
    """``main_grad += grad.T @ rows``, in fp32."""
    if rows_RX.dtype == torch.float32:
        main_grad_YX.addmm_(grad_RY.t(), rows_RX)
    else:
        main_grad_YX += grad_RY.t() @ rows_RX
