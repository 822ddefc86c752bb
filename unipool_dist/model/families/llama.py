"""The LLaMA-like decoder of the UniPool paper: norms before attention and experts, rotary positions, SwiGLU."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from unipool_dist.config.plan import Plan
from unipool_dist.model.families import ModelFamily
from unipool_dist.model.inventory import Init, Inventory, Shape, TensorSpec

if TYPE_CHECKING:
    from unipool_dist.model.block import StagePlace
    from unipool_dist.model.stage import Stage


class Llama(ModelFamily):
    """The family ``llama``."""

    def inventory(self, plan: Plan) -> Inventory:
        """List the tensors; see :meth:`ModelFamily.inventory`."""
        model = plan.model
        hidden, head = model.hidden_size, model.hidden_size // model.num_attention_heads
        output_std = model.init_std / math.sqrt(2 * model.num_layers)  # a layer adds to the residual stream twice
        qkv = (model.num_attention_heads + 2 * model.num_query_groups) * head
        return Inventory(
            first=(TensorSpec("embedding.weight", (model.vocab_size, hidden), "embedding", model.init_std, tp_dim=0),),
            layer=(
                norm("attention_norm.weight", hidden),
                TensorSpec("attention.qkv.weight", (qkv, hidden), "attention", model.init_std, tp_dim=0),
                TensorSpec("attention.output.weight", (hidden, hidden), "attention", output_std, tp_dim=1),
                norm("pool_norm.weight", hidden),
                *router(plan),
            ),
            last=(
                norm("final_norm.weight", hidden),
                TensorSpec("output.weight", (model.vocab_size, hidden), "embedding", model.init_std, tp_dim=0),
            ),
            expert=(
                TensorSpec("gate_up", (2 * model.ffn_hidden_size, hidden), "experts", model.init_std),
                TensorSpec("down", (hidden, model.ffn_hidden_size), "experts", output_std),
            ),
            num_layers=model.num_layers,
            num_experts=plan.pools.total_experts,
        )

    def build_stage(self, place: StagePlace) -> Stage:
        """Build one pipeline stage."""
        from unipool_dist.model.stage import Stage  # with torch, which listing tensors does not need

        return Stage(place)


def norm(name: str, hidden_size: int) -> TensorSpec:
    """Describe the weight of an RMSNorm."""
    return TensorSpec(name, (hidden_size,), "norms", "ones", decays=False)


def router(plan: Plan) -> tuple[TensorSpec, ...]:
    """Describe the tensors of a layer's router, as :class:`unipool_dist.pool.router.Router` defines them."""
    pool, hidden = plan.pool, plan.model.hidden_size
    weight: dict[str, Shape] = {"weight": (pool.num_experts, hidden)}
    built_in: dict[str, dict[str, Shape]] = {
        "none": {},
        "norm": weight | {"scale": (1,)},
        "softmax": weight,
        "sigmoid": weight,
    }
    shapes = built_in.get(pool.router)
    if shapes is None:
        from unipool_dist.pool.router import parameter_shapes  # with torch: only the user's class knows

        shapes = parameter_shapes(pool, hidden)
    tensors = []
    for name, shape in shapes.items():
        is_matrix = len(shape) > 1
        init: Init = pool.router_init_std if is_matrix else "ones"
        tensors.append(
            TensorSpec(f"router.{name}", shape, "routers", init, dtype="fp32", decays=is_matrix, lr_group="router")
        )
    if pool.balance.bias_rate:
        bias = TensorSpec("router.bias", (pool.num_experts,), "routers", "zeros", dtype="fp32", trained=False)
        tensors.append(bias)
    return tuple(tensors)
