"""A decoder with a norm on both sides of attention and experts, and one matrix for embedding and output layer.

Norms as in Gemma 2 (arXiv 2408.00118); everything else is as in :mod:`unipool_dist.model.families.llama`. The norm
after the experts cancels the score of a token's only expert, so with ``pool.top_k=1`` routers learn from the balance
loss alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from unipool_dist.config.plan import Plan
from unipool_dist.model.attention import Scope
from unipool_dist.model.block import Block, StagePlace
from unipool_dist.model.families.llama import LAYER, Llama, norm
from unipool_dist.model.inventory import Inventory
from unipool_dist.model.normalization import RMSNorm
from unipool_dist.model.stage import Stage


class SandwichBlock(Block):
    """``h = x + norm(attention(norm(x)))``, then ``h + norm(pool(norm(h)))``."""

    def __init__(self, place: StagePlace, layer: int, slot: int) -> None:
        super().__init__(place, layer, slot)
        model = place.plan.model
        settings: dict[str, Any] = {"eps": model.norm_epsilon, "dtype": place.megatron.params_dtype}
        self.attention_output_norm = RMSNorm(model.hidden_size, **settings)
        self.pool_output_norm = RMSNorm(model.hidden_size, **settings)

    def attend(self, x: Tensor, scope: Scope) -> Tensor:
        """Add attention to x [s / tp, b, h]. Collectives: those of the attention."""
        return x + self.attention_output_norm(self.attention(self.attention_norm(x), scope))

    def add_experts(self, h: Tensor, out: Tensor) -> Tensor:
        """Add what the pool returned, both [s / tp, b, h]."""
        return h + self.pool_output_norm(out)


class Sandwich(Llama):
    """The family ``sandwich``."""

    def inventory(self, plan: Plan) -> Inventory:
        """List the tensors: those of :class:`Llama` and two more norms per layer; the output layer is the embedding."""
        llama, hidden = super().inventory(plan), plan.model.hidden_size
        names = ("attention_output_norm.weight", "pool_output_norm.weight")
        norms = tuple(norm(name, hidden, f"{LAYER}.{name}") for name in names)
        final_norm, _ = llama.last
        return replace(llama, layer=llama.layer + norms, last=(final_norm, *llama.first))

    def build_stage(self, place: StagePlace) -> Stage:
        """Build one pipeline stage."""
        return Stage(place, SandwichBlock, tied=True)
