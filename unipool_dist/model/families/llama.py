"""The LLaMA-like decoder of the UniPool paper: norms before attention and experts, rotary positions, SwiGLU."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from unipool_dist.config.plan import Plan
from unipool_dist.model.families import ModelFamily
from unipool_dist.model.inventory import Init, Inventory, Shape, TensorSpec

if TYPE_CHECKING:
    from unipool_dist.model.block import StagePlace
    from unipool_dist.model.stage import Stage

LAYER = "model.layers.{layer}"
"""How the public name of a layer's tensor begins."""


class Llama(ModelFamily):
    """The family ``llama``."""

    def inventory(self, plan: Plan) -> Inventory:
        """List the tensors; see :meth:`ModelFamily.inventory`."""
        model = plan.model
        hidden, head = model.hidden_size, model.hidden_size // model.num_attention_heads
        output_std = model.init_std / math.sqrt(2 * model.num_layers)  # a layer adds to the residual stream twice
        qkv = (model.num_attention_heads + 2 * model.num_query_groups) * head
        return Inventory(
            first=(
                matrix("embedding.weight", (model.vocab_size, hidden), model.init_std, "model.embed_tokens.weight"),
            ),
            layer=(
                norm("attention_norm.weight", hidden, f"{LAYER}.input_layernorm.weight"),
                TensorSpec(
                    "attention.qkv.weight",
                    (qkv, hidden),
                    "attention",
                    model.init_std,
                    tp_dim=0,
                    public=tuple(f"{LAYER}.self_attn.{part}_proj.weight" for part in "qkv"),
                ),
                TensorSpec(
                    "attention.output.weight",
                    (hidden, hidden),
                    "attention",
                    output_std,
                    tp_dim=1,
                    public=(f"{LAYER}.self_attn.o_proj.weight",),
                ),
                norm("pool_norm.weight", hidden, f"{LAYER}.post_attention_layernorm.weight"),
                *router(plan),
            ),
            last=(
                norm("final_norm.weight", hidden, "model.norm.weight"),
                matrix("output.weight", (model.vocab_size, hidden), model.init_std, "lm_head.weight"),
            ),
            expert=(
                expert("gate_up", (2 * model.ffn_hidden_size, hidden), model.init_std),
                expert("down", (hidden, model.ffn_hidden_size), output_std),
            ),
            num_layers=model.num_layers,
            num_experts=plan.pools.total_experts,
        )

    def build_stage(self, place: StagePlace) -> Stage:
        """Build one pipeline stage."""
        from unipool_dist.model.stage import Stage  # with torch, which listing tensors does not need

        return Stage(place)


def matrix(name: str, shape: Shape, std: float, public: str) -> TensorSpec:
    """Describe the embedding or the output layer, [vocabulary, hidden]."""
    return TensorSpec(name, shape, "embedding", std, tp_dim=0, public=(public,))


def expert(name: str, shape: Shape, std: float) -> TensorSpec:
    """Describe a matrix of an expert; for transformers, those of a pool are one stack."""
    return TensorSpec(name, shape, "experts", std, public=(f"model.pools.{{pool}}.{name}_proj",))


def norm(name: str, hidden_size: int, public: str) -> TensorSpec:
    """Describe the weight of an RMSNorm."""
    return TensorSpec(name, (hidden_size,), "norms", "ones", decays=False, public=(public,))


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
        public = (f"{LAYER}.router.{name}",) if pool.router in built_in else ()
        spec = TensorSpec(f"router.{name}", shape, "routers", init, dtype="fp32", decays=is_matrix, public=public)
        tensors.append(replace(spec, lr_group="router"))
    if pool.balance.bias_rate:
        public, shape = (f"{LAYER}.router.bias",), (pool.num_experts,)
        bias = TensorSpec("router.bias", shape, "routers", "zeros", dtype="fp32", trained=False, public=public)
        tensors.append(bias)
    return tuple(tensors)
