"""What the kernels for CPU and CUDA share: SwiGLU and its derivative written out, and the weight gradients.

Shapes: e experts of a rank, D hidden size, F hidden width of an expert, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unipool_dist.kernels.protocol import ExpertWeights, WeightWork


def swiglu(gate_up_RF: Tensor) -> Tensor:
    """Return ``silu(gate) * up`` [R, F] of gate and up [R, 2F]."""
    gate, up = gate_up_RF.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def swiglu_backward_(gate_up_RF: Tensor, grad_hidden_RF: Tensor, *, hidden_out: Tensor) -> None:
    """Turn ``gate_up_RF`` into its gradient, and write into ``hidden_out`` [R, F] what :func:`swiglu` had returned."""
    gate, up = gate_up_RF.chunk(2, dim=-1)
    silu_RF = F.silu(gate)
    torch.mul(silu_RF, up, out=hidden_out)
    grad_silu_RF = grad_hidden_RF * up
    torch.mul(grad_hidden_RF, silu_RF, out=up)
    torch.ops.aten.silu_backward.grad_input(grad_silu_RF, gate, grad_input=gate)


def by_expert(
    counts: np.ndarray, rows: tuple[Tensor, ...], weights: tuple[Tensor, ...]
) -> Iterator[tuple[Tensor, ...]]:
    """Yield, for every expert that has rows, its part of all ``rows`` (sorted by expert) and of all ``weights``."""
    sizes = counts.tolist()
    for size, *parts in zip(sizes, *(t.split(sizes) for t in rows), *(t.unbind() for t in weights), strict=True):
        if size:
            yield tuple(parts)


def weight_work(
    counts: np.ndarray, rows_RD: Tensor, grad_gate_up_RF: Tensor, hidden_RF: Tensor, grad_RD: Tensor
) -> WeightWork:
    """Keep the four kinds of rows whose products are the weight gradients, for :func:`flush`."""
    return WeightWork(len(rows_RD), counts, (rows_RD, grad_gate_up_RF, hidden_RF, grad_RD))


def flush(work: Sequence[WeightWork], gradients: ExpertWeights) -> None:
    """Add the weight gradients of all ``work``, one product over all rows of an expert.

    Expert by expert: one expert's rows of all layers fit a CPU's cache, while joining those of all experts would make
    a second copy of everything that waits.
    """
    if not work:
        return
    for expert, items in enumerate(zip(*map(_split, work), strict=True)):
        parts = [rows for rows in items if len(rows[0])]
        if parts:
            rows_RD, grad_gate_up_RF, hidden_RF, grad_RD = map(_joined, zip(*parts, strict=True))
            _add_product(gradients.gate_up[expert], grad_gate_up_RF, rows_RD)
            _add_product(gradients.down[expert], grad_RD, hidden_RF)


def _split(item: WeightWork) -> Iterator[tuple[Tensor, ...]]:
    """Yield every expert's part of all four kinds of rows."""
    sizes = item.counts.tolist()
    return zip(*(rows.split(sizes) for rows in item.tensors), strict=True)


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _add_product(total_YX: Tensor, grad_RY: Tensor, rows_RX: Tensor) -> None:
    """Compute ``total += grad.T @ rows``, in fp32."""
    if rows_RX.dtype == torch.float32:
        total_YX.addmm_(grad_RY.t(), rows_RX)
    elif rows_RX.is_cuda:  # the product itself in fp32, which torch has on CUDA alone
        total_YX += torch.mm(grad_RY.t(), rows_RX, out_dtype=torch.float32)
    else:
        total_YX += grad_RY.t() @ rows_RX
