"""Causal grouped-query attention with rotary positions, on Megatron's tensor-parallel linear layers.

Shapes: s sequence, b batch, h hidden, a attention heads, g key/value groups, d width of a head; a and g are this
rank's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from unipool_dist.comm.megatron import ColumnParallelLinear, ModelParallelConfig, RowParallelLinear
from unipool_dist.config.plan import ModelPlan
from unipool_dist.model.blockwise import BLOCKWISE_LIMIT, blockwise_causal_attention
from unipool_dist.model.document_attention import DocumentAttention, attention_within
from unipool_dist.model.documents import Documents
from unipool_dist.model.rotary import RotaryTable, Rotation


@dataclass(frozen=True)
class Scope:
    """What the tokens of a micro-batch attend to: those before them in their row, or in their document.

    Made once for all layers of a stage.
    """

    rotation: Rotation
    within: DocumentAttention | None
    """Attention within documents; ``None``: each row is one."""

    @classmethod
    def of(cls, rotary: RotaryTable, documents: Documents | None, x: Tensor, length: int) -> Scope:
        """Make the scope of a micro-batch of rows of ``length`` tokens; x is an activation of it.

        Args:
            documents: where the rows hold several; positions begin with each.
        """
        if documents is None:
            return cls(rotary.rotation(slice(length), x.dtype), None)
        head_dim = rotary.cos.shape[1]
        return cls(rotary.rotation(documents.positions, x.dtype), attention_within(documents, x, head_dim))


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

    def forward(self, x: Tensor, scope: Scope) -> Tensor:
        """Attend within the scope: [s / tp, b, h] to [s / tp, b, h].

        Collectives: all-gather, then reduce-scatter over the tensor-parallel group (sequence parallelism); the
        reverse in backward.
        """
        qkv, _ = self.qkv(x)  # [s, b, (a + 2 g) d]
        s, b, _ = qkv.shape
        qkv = qkv.view(s, b, -1, self.queries_per_group + 2, self.head_dim)
        if scope.within is None:
            qkv = qkv.permute(1, 2, 3, 0, 4)  # [b, g, a/g + 2, s, d]
            rotated, value = scope.rotation(qkv[:, :, :-1]), qkv[:, :, -1]
            attended = causal_attention(rotated[:, :, :-1], rotated[:, :, -1], value)  # [b, a, s, d]
            attended = attended.permute(2, 0, 1, 3)
        else:
            qkv = qkv.permute(2, 3, 1, 0, 4)  # [g, a/g + 2, b, s, d]: rows end to end
            rotated, value = scope.rotation(qkv[:, :-1]), qkv[:, -1]
            attended = scope.within(rotated[:, :-1], rotated[:, -1], value)  # [g, a/g, b, s, d]
            attended = attended.permute(3, 2, 0, 1, 4)
        out, _ = self.output(attended.reshape(s, b, -1))
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
