"""Causal grouped-query attention with rotary positions, on Megatron's tensor-parallel linear layers.

Shapes: s sequence, b batch, h hidden, a attention heads, g key/value groups, d width of a head; a and g are this
rank's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from unipool_dist.comm.megatron import ColumnParallelLinear, ModelParallelConfig, RowParallelLinear
from unipool_dist.config.plan import ModelPlan
from unipool_dist.model.blockwise import BLOCKWISE_LIMIT, blockwise_causal_attention


class RotaryTable(nn.Module):
    """Cosines and sines of rotary position embedding (arXiv 2104.09864), [s, d] each, computed in fp32."""

    def __init__(self, head_dim: int, sequence_length: int, base: float) -> None:
        super().__init__()
        frequency = base ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angle = torch.outer(torch.arange(sequence_length, dtype=torch.float32), frequency).repeat(1, 2)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate [b, ..., s, d] by its positions, the first s there are; contiguous."""
        cos, sin = (table[: x.shape[-2]].to(x.dtype) for table in (self.cos, self.sin))
        return _Rotate.apply(x, cos, sin)


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


class Attention(nn.Module):
    """Self-attention sublayer without norm and residual.

    ``qkv`` holds, group after group, the queries of the group, its key and its value, so that a slice of groups is a
    slice of rows.
    """

    def __init__(self, model: ModelPlan, megatron: ModelParallelConfig, tp: ProcessGroup) -> None:
        super().__init__()
        self.head_dim = model.hidden_size // model.num_attention_heads
        self.queries_per_group = model.num_attention_heads // model.num_query_groups
        rows = (model.num_attention_heads + 2 * model.num_query_groups) * self.head_dim
        common = {"config": megatron, "init_method": nn.init.zeros_, "bias": False, "tp_group": tp}
        self.qkv = ColumnParallelLinear(model.hidden_size, rows, gather_output=False, **common)
        self.output = RowParallelLinear(
            model.num_attention_heads * self.head_dim,
            model.hidden_size,
            input_is_parallel=True,
            skip_bias_add=True,
            **common,
        )

    def forward(self, x: Tensor, rotary: RotaryTable) -> Tensor:
        """Attend within each sequence: [s / tp, b, h] to [s / tp, b, h].

        Collectives: all-gather, then reduce-scatter over the tensor-parallel group (sequence parallelism); the
        reverse in backward.
        """
        qkv, _ = self.qkv(x)  # [s, b, (a + 2 g) d]
        s, b, _ = qkv.shape
        qkv = qkv.view(s, b, -1, self.queries_per_group + 2, self.head_dim).permute(
            1, 2, 3, 0, 4
        )  # [b, g, a/g + 2, s, d]
        rotated, value = rotary.rotate(qkv[:, :, :-1]), qkv[:, :, -1]
        attended = causal_attention(rotated[:, :, :-1], rotated[:, :, -1], value)  # [b, a, s, d]
        out, _ = self.output(attended.permute(2, 0, 1, 3).reshape(s, b, -1))
        return out


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend with queries [b, g, a/g, s, d] to keys and values [b, g, s, d]: [b, a, s, d].

    By :func:`torch.nn.functional.scaled_dot_product_attention`, except for short sequences on a CPU
    (:mod:`unipool_dist.model.blockwise`).
    """
    if query.device.type == "cpu" and query.shape[3] <= BLOCKWISE_LIMIT:
        return blockwise_causal_attention(query, key, value).flatten(1, 2)
    grouped = query.shape[2] > 1
    return F.scaled_dot_product_attention(query.flatten(1, 2), key, value, is_causal=True, enable_gqa=grouped)
