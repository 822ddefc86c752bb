"""Experts on a GPU: in bf16 one grouped product for all experts of a rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unipool_dist.kernels.host_arrays import to_device
from unipool_dist.kernels.protocol import ExpertWeights, Saved, WeightWork
from unipool_dist.kernels.swiglu import by_expert, flush, swiglu, swiglu_backward_, weight_work

_MAX_GROUPS = 1023
"""Of torch's grouped product on CUDA: it refuses 1,024."""


class CudaKernel:
    """An :class:`~unipool_dist.kernels.protocol.ExpertKernel` for CUDA; saves rows, and gate and up [R, 2F]."""

    def forward(self, rows_RD: Tensor, weights: ExpertWeights, counts: np.ndarray) -> tuple[Tensor, Saved]:
        groups = _Groups(counts, rows_RD.device)
        gate_up_RF = groups.linear(rows_RD, weights.gate_up)
        return groups.linear(swiglu(gate_up_RF), weights.down), (rows_RD, gate_up_RF)

    def backward(
        self, saved: Saved, weights: ExpertWeights, counts: np.ndarray, grad_RD: Tensor
    ) -> tuple[Tensor, WeightWork]:
        rows_RD, gate_up_RF = saved
        groups = _Groups(counts, rows_RD.device)
        hidden_RF = gate_up_RF.new_empty(len(gate_up_RF), weights.down.shape[2])
        grad_hidden_RF = groups.linear(grad_RD, weights.down.transpose(1, 2))
        swiglu_backward_(gate_up_RF, grad_hidden_RF, hidden_out=hidden_RF)
        grad_in_RD = groups.linear(gate_up_RF, weights.gate_up.transpose(1, 2))
        return grad_in_RD, weight_work(counts, rows_RD, gate_up_RF, hidden_RF, grad_RD)

    def flush(self, work: Sequence[WeightWork], gradients: ExpertWeights) -> None:
        flush(work, gradients)


@dataclass(frozen=True)
class _Slice:
    """Neighbouring experts that one grouped product serves, their rows, and where each one's rows end."""

    experts: slice
    rows: slice
    ends: Tensor


class _Groups:
    """The rows of every expert, for several products."""

    def __init__(self, counts: np.ndarray, device: torch.device) -> None:
        self._counts = counts
        self._slices = [
            _Slice(experts, rows, to_device(np.cumsum(counts[experts], dtype=np.int32), device))
            for experts, rows in slices_of(counts)
        ]

    def linear(self, rows_RX: Tensor, weight_eYX: Tensor) -> Tensor:
        """Return ``rows @ weight[e].T`` for the rows of every expert e.

        The grouped product needs rows that begin at multiples of 16 bytes; other sizes and types go expert by expert.
        """
        is_aligned = rows_RX.shape[1] % 8 == 0 and weight_eYX.shape[1] % 8 == 0
        if rows_RX.dtype == torch.bfloat16 and len(rows_RX) and is_aligned:
            weight_eXY = weight_eYX.transpose(1, 2)
            parts = [F.grouped_mm(rows_RX[s.rows], weight_eXY[s.experts], offs=s.ends) for s in self._slices]
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        out_RY = rows_RX.new_empty(len(rows_RX), weight_eYX.shape[1])
        for rows, out, weight in by_expert(self._counts, (rows_RX, out_RY), (weight_eYX,)):
            torch.mm(rows, weight.t(), out=out)
        return out_RY


def slices_of(counts: np.ndarray) -> list[tuple[slice, slice]]:
    """Cut experts into as many slices as a product takes; return each one's experts and rows.

    Experts before the first and after the last that has rows are left out: those of other pools.
    """
    used = np.flatnonzero(counts)
    if not len(used):
        return []
    ends = np.concatenate([[0], np.cumsum(counts)])
    firsts = range(int(used[0]), int(used[-1]) + 1, _MAX_GROUPS)
    cuts = [slice(first, min(first + _MAX_GROUPS, int(used[-1]) + 1)) for first in firsts]
    return [(cut, slice(int(ends[cut.start]), int(ends[cut.stop]))) for cut in cuts]
