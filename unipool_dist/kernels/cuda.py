"""Experts on a GPU: in bf16 one grouped product for all experts of a rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unipool_dist.kernels.protocol import ExpertWeights, Saved, WeightWork
from unipool_dist.kernels.swiglu import by_expert, flush, swiglu, swiglu_backward_, weight_work


class CudaKernel:
    """An :class:`~unipool_dist.kernels.protocol.ExpertKernel` for CUDA; saves rows, and gate and up [R, 2F]."""

    def forward(self, rows_RD: Tensor, weights: ExpertWeights, counts: np.ndarray) -> tuple[Tensor, Saved]:
        gate_up_RF = _grouped_linear(rows_RD, weights.gate_up, counts)
        return _grouped_linear(swiglu(gate_up_RF), weights.down, counts), (rows_RD, gate_up_RF)

    def backward(
        self, saved: Saved, weights: ExpertWeights, counts: np.ndarray, grad_RD: Tensor
    ) -> tuple[Tensor, WeightWork]:
        rows_RD, gate_up_RF = saved
        hidden_RF = gate_up_RF.new_empty(len(gate_up_RF), weights.down.shape[2])
        grad_hidden_RF = _grouped_linear(grad_RD, weights.down.transpose(1, 2), counts)
        swiglu_backward_(gate_up_RF, grad_hidden_RF, hidden_out=hidden_RF)
        grad_in_RD = _grouped_linear(gate_up_RF, weights.gate_up.transpose(1, 2), counts)
        return grad_in_RD, weight_work(counts, rows_RD, gate_up_RF, hidden_RF, grad_RD)

    def flush(self, work: Sequence[WeightWork], gradients: ExpertWeights) -> None:
        flush(work, gradients)


def _grouped_linear(rows_RX: Tensor, weight_eYX: Tensor, counts: np.ndarray) -> Tensor:
    """Return ``rows @ weight[e].T`` for the rows of every expert e.

    The grouped product needs rows that begin at multiples of 16 bytes; other sizes and types go expert by expert.
    """
    is_aligned = rows_RX.shape[1] % 8 == 0 and weight_eYX.shape[1] % 8 == 0
    if rows_RX.dtype == torch.bfloat16 and len(rows_RX) and is_aligned:
        offsets = torch.from_numpy(np.cumsum(counts)).to(device=rows_RX.device, dtype=torch.int32)
        return F.grouped_mm(rows_RX, weight_eYX.transpose(1, 2), offs=offsets)
    out_RY = rows_RX.new_empty(len(rows_RX), weight_eYX.shape[1])
    for rows, out, weight in by_expert(counts, (rows_RX, out_RY), (weight_eYX,)):
        torch.mm(rows, weight.t(), out=out)
    return out_RY
