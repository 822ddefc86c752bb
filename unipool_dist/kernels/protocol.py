"""What a kernel for experts is.

An expert is ``down (silu(gate x) * up x)``. A kernel runs all experts of a rank on rows sorted by expert. Forward and
backward are separate calls with explicit saved tensors, because one backward joins rows of several forwards, and
weight gradients may wait for the rows of later backwards.

Shapes: e experts of a rank, D hidden size, F hidden width of an expert, R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor


class ExpertWeights(NamedTuple):
    """Weights of a rank's experts, or their gradients in fp32."""

    gate_up: Tensor
    """[e, 2F, D]: gate, then up."""
    down: Tensor
    """[e, D, F]"""


Saved = tuple[Tensor, ...]
"""What backward needs of a forward: tensors with one row per row, which may be taken apart and joined by rows."""


@dataclass(frozen=True)
class WeightWork:
    """Rows whose weight gradients have not been added yet, as the kernel keeps them."""

    num_rows: int
    counts: np.ndarray  # rows of each expert
    tensors: tuple[Tensor, ...]


class ExpertKernel(Protocol):
    """Computes experts. Keeps no state; called without gradient recording.

    ``counts[e]`` rows belong to expert e; each may be 0, and so may R.
    """

    def forward(self, rows_RD: Tensor, weights: ExpertWeights, counts: np.ndarray) -> tuple[Tensor, Saved]:
        """Return outputs [R, D], and what backward needs."""

    def backward(
        self, saved: Saved, weights: ExpertWeights, counts: np.ndarray, grad_RD: Tensor
    ) -> tuple[Tensor, WeightWork]:
        """Return gradients [R, D] of the rows, and the weight gradients still to be computed.

        ``saved`` may be overwritten. It and ``grad_RD`` must not change before the work is flushed.
        """

    def flush(self, work: Sequence[WeightWork], gradients: ExpertWeights) -> None:
        """Add the weight gradients of ``work`` to ``gradients``; experts without rows keep theirs bit for bit."""
