"""The experts that one rank owns: SwiGLU feed-forward networks, run on rows sorted by expert.

Forward and backward are written out instead of recorded, because a backward half-tick joins rows of different forward
half-ticks, and because gradients are added in place to one fp32 buffer.

Shapes: e experts of this rank, D hidden size, F hidden width of an expert, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipool_dist.pool.main_grad import main_grad, zero_main_grad
from unipool_dist.pool.rows import expert_major_order


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
        """Outputs [R, D] of rows sorted by expert, ``counts[e]`` each, and what backward needs: gate and up, [R,
        2F]."""
        gate_up_RF = _grouped_linear(rows_RD, self.gate_up, counts)
        return _grouped_linear(_swiglu(gate_up_RF), self.down, counts), gate_up_RF

    @torch.no_grad()
    def run_backward(self, rows_RD: Tensor, gate_up_RF: Tensor, counts: np.ndarray, grad_RD: Tensor) -> Tensor:
        """Gradients [R, D] with respect to the rows; keeps what the weight gradients need."""
        grad_hidden_RF = _grouped_linear(grad_RD, self.down.transpose(1, 2), counts)
        hidden_RF, grad_gate_up_RF = _swiglu_backward(gate_up_RF, grad_hidden_RF)
        if len(rows_RD):
            self._pending.append(_Pending(counts, rows_RD, grad_gate_up_RF, hidden_RF, grad_RD))
        return _grouped_linear(grad_gate_up_RF, self.gate_up.transpose(1, 2), counts)

    @torch.no_grad()
    def flush_weight_gradients(self) -> None:
        """Add the weight gradients of all rows that wait."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        counts_SE = np.stack([item.counts for item in pending])
        order = expert_major_order(counts_SE, pending[0].rows_RD.device) if len(pending) > 1 else None

        def together(name: str) -> Tensor:
            parts: list[Tensor] = [getattr(item, name) for item in pending]
            return parts[0] if order is None else torch.cat(parts).index_select(0, order)

        counts = counts_SE.sum(axis=0)
        _add_weight_gradients(main_grad(self.gate_up), together("grad_gate_up_RF"), together("rows_RD"), counts)
        _add_weight_gradients(main_grad(self.down), together("grad_RD"), together("hidden_RF"), counts)

    @property
    def pending_rows(self) -> int:
        return sum(len(item.rows_RD) for item in self._pending)


class _Pending:
    """Rows whose weight gradients are still to be added; sorted by expert."""

    __slots__ = ("counts", "grad_RD", "grad_gate_up_RF", "hidden_RF", "rows_RD")

    def __init__(
        self, counts: np.ndarray, rows_RD: Tensor, grad_gate_up_RF: Tensor, hidden_RF: Tensor, grad_RD: Tensor
    ) -> None:
        self.counts, self.rows_RD, self.grad_gate_up_RF = counts, rows_RD, grad_gate_up_RF
        self.hidden_RF, self.grad_RD = hidden_RF, grad_RD


def _swiglu(gate_up_RF: Tensor) -> Tensor:
    gate, up = gate_up_RF.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def _swiglu_backward(gate_up_RF: Tensor, grad_hidden_RF: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden rows again, [R, F], and the gradient with respect to gate and up, [R, 2F]."""
    gate, up = gate_up_RF.chunk(2, dim=-1)
    silu = F.silu(gate)
    grad = torch.empty_like(gate_up_RF)
    grad_gate, grad_up = grad.chunk(2, dim=-1)
    torch.mul(grad_hidden_RF, silu, out=grad_up)
    grad_gate.copy_(torch.ops.aten.silu_backward(grad_hidden_RF * up, gate))
    return silu.mul_(up), grad


def _slices(counts: np.ndarray) -> Iterator[tuple[int, slice]]:
    start = 0
    for expert, count in enumerate(counts.tolist()):
        if count:
            yield expert, slice(start, start + count)
        start += count


def _grouped_linear(rows_RX: Tensor, weight_EYX: Tensor, counts: np.ndarray) -> Tensor:
    """``rows @ weight[e].T`` for the rows of every expert e."""
    if rows_RX.is_cuda and rows_RX.dtype == torch.bfloat16 and len(rows_RX):
        offsets = torch.from_numpy(np.cumsum(counts)).to(device=rows_RX.device, dtype=torch.int32)
        return F.grouped_mm(rows_RX, weight_EYX.transpose(1, 2), offs=offsets)
    out_RY = rows_RX.new_empty(len(rows_RX), weight_EYX.shape[1])
    for expert, rows in _slices(counts):
        torch.mm(rows_RX[rows], weight_EYX[expert].t(), out=out_RY[rows])
    return out_RY


def _add_weight_gradients(main_grad_EYX: Tensor, grad_RY: Tensor, rows_RX: Tensor, counts: np.ndarray) -> None:
    """``main_grad[e] += grad.T @ rows`` over the rows of every expert e, in fp32."""
    for expert, rows in _slices(counts):
        if rows_RX.dtype == torch.float32:
            main_grad_EYX[expert].addmm_(grad_RY[rows].t(), rows_RX[rows])
        else:
            main_grad_EYX[expert] += grad_RY[rows].t() @ rows_RX[rows]
