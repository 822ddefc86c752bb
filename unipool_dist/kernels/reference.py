"""The reference kernel: the formula of an expert, differentiated by autograd. Slow; other kernels must equal it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unipool_dist.kernels.protocol import ExpertWeights, Saved, WeightWork


class ReferenceKernel:
    """An :class:`~unipool_dist.kernels.protocol.ExpertKernel` on any device and in any type, fp64 included.

    Saves the rows alone, and computes weight gradients at once.
    """

    def forward(self, rows_RD: Tensor, weights: ExpertWeights, counts: np.ndarray) -> tuple[Tensor, Saved]:
        return _outputs(rows_RD, weights, counts), (rows_RD,)

    def backward(
        self, saved: Saved, weights: ExpertWeights, counts: np.ndarray, grad_RD: Tensor
    ) -> tuple[Tensor, WeightWork]:
        rows_RD, gate_up, down = (tensor.detach().requires_grad_() for tensor in (*saved, *weights))
        with torch.enable_grad():
            out_RD = _outputs(rows_RD, ExpertWeights(gate_up, down), counts)
        grad_in_RD, *gradients = torch.autograd.grad(out_RD, (rows_RD, gate_up, down), grad_RD)
        return grad_in_RD, WeightWork(len(rows_RD), counts, tuple(gradients))

    def flush(self, work: Sequence[WeightWork], gradients: ExpertWeights) -> None:
        for item in work:
            for total, part in zip(gradients, item.tensors, strict=True):
                total += part


def _outputs(rows_RD: Tensor, weights: ExpertWeights, counts: np.ndarray) -> Tensor:
    parts = []
    for rows, gate_up, down in zip(rows_RD.split(counts.tolist()), *weights, strict=True):
        gate, up = (rows @ gate_up.t()).chunk(2, dim=-1)
        parts.append((F.silu(gate) * up) @ down.t())
    return torch.cat(parts)
