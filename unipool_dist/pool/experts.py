"""The experts that one rank owns: their weights, their fp32 gradients, and weight gradients that wait.

Shapes: e experts of this rank, D hidden size, F hidden width of an expert, R rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from unipool_dist.kernels.protocol import ExpertKernel, ExpertWeights, Saved, WeightWork
from unipool_dist.pool.main_grad import main_grad, zero_main_grad


class ExpertBank(nn.Module):
    """``expert(x) = down (silu(gate x) * up x)`` for every expert of this rank.

    ``gate_up`` [e, 2F, D] holds gate, then up; ``down`` is [e, D, F]. Gradients are summed into ``main_grad`` (fp32,
    same shape), never into ``.grad``; :meth:`zero_grad_buffers` makes exact zeros, not ``None``.

    Weight gradients wait: rows whose input gradients are done are kept until :meth:`flush_weight_gradients`, so that
    an expert used by several layers is updated by one product over all their rows instead of one small product per
    layer.
    """

    def __init__(
        self,
        num_local_experts: int,
        hidden_size: int,
        ffn_hidden_size: int,
        dtype: torch.dtype,
        kernel: ExpertKernel,
    ) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(num_local_experts, 2 * ffn_hidden_size, hidden_size, dtype=dtype))
        self.down = nn.Parameter(torch.empty(num_local_experts, hidden_size, ffn_hidden_size, dtype=dtype))
        self._kernel = kernel
        self._pending: list[WeightWork] = []

    def zero_grad_buffers(self) -> None:
        """Zero the fp32 gradient buffers, making them on first use."""
        assert not self._pending
        for parameter in self.parameters():
            zero_main_grad(parameter)

    @torch.no_grad()
    def run(self, rows_RD: Tensor, counts: np.ndarray) -> tuple[Tensor, Saved]:
        """Return the outputs [R, D] of rows sorted by expert, ``counts[e]`` each, and what backward needs."""
        return self._kernel.forward(rows_RD, ExpertWeights(self.gate_up, self.down), counts)

    @torch.no_grad()
    def run_backward(self, saved: Saved, counts: np.ndarray, grad_RD: Tensor) -> Tensor:
        """Return the gradients [R, D] of the rows; keep what the weight gradients need.

        ``saved`` is given up, and ``grad_RD`` must not change before :meth:`flush_weight_gradients`.
        """
        grad_in_RD, work = self._kernel.backward(saved, ExpertWeights(self.gate_up, self.down), counts, grad_RD)
        if work.num_rows:
            self._pending.append(work)
        return grad_in_RD

    @torch.no_grad()
    def flush_weight_gradients(self) -> None:
        """Add the deferred weight gradients of all rows."""
        pending, self._pending = self._pending, []
        if pending:
            self._kernel.flush(pending, ExpertWeights(main_grad(self.gate_up), main_grad(self.down)))

    @property
    def pending_rows(self) -> int:
        """Rows whose weight gradients wait."""
        return sum(work.num_rows for work in self._pending)
