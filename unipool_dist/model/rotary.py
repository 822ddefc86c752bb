"""Rotary position embedding (arXiv 2104.09864): tables of angles, and the rotation of queries and keys by them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Rotation:
    """The angles by which the tokens of a micro-batch are turned, as cosines and sines: [s, d], or [b, s, d]."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate [..., s, d], or [..., b, s, d]; contiguous."""
        rotated: Tensor = _Rotate.apply(x, self.cos, self.sin)
        return rotated


class RotaryTable(nn.Module):
    """Cosines and sines of rotary position embedding, [s, d] each, computed in fp32."""

    def __init__(self, head_dim: int, sequence_length: int, base: float) -> None:
        super().__init__()
        frequency = base ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angle = torch.outer(torch.arange(sequence_length, dtype=torch.float32), frequency).repeat(1, 2)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def rotation(self, places: slice | Tensor, dtype: torch.dtype) -> Rotation:
        """Return the rotation by these positions, a slice of them or one for each token [b, s], in ``dtype``."""
        return Rotation(self.cos[places].to(dtype), self.sin[places].to(dtype))

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate [..., s, d] by its positions, the first s there are; contiguous."""
        return self.rotation(slice(x.shape[-2]), x.dtype)(x)


class _Rotate(torch.autograd.Function):
    """``x * cos + [-x2, x1] * sin`` with ``x = [x1, x2]``; its gradient is the rotation by the opposite angle.

    Written out because the recorded operations read and write their tensors twice as often.
    """

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, -sin), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out = torch.mul(x, cos, out=x.new_empty(x.shape))
    x1, x2 = x.chunk(2, dim=-1)
    out1, out2 = out.chunk(2, dim=-1)
    half = sin.chunk(2, dim=-1)[0]
    out1.addcmul_(x2, half, value=-1.0)
    out2.addcmul_(x1, half)
    return out
