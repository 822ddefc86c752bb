"""The parameters of a whole model, from its plan alone: names, shapes, and how many of what kind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from unipool_dist.config.plan import Plan

Shape = tuple[int, ...]
Part = Literal["embedding", "attention", "norms", "routers", "experts"]
"""``embedding`` is both embedding and output layer; ``experts`` are the FFNs, those of a dense model too."""

_TP_DIMS = {
    "embedding.weight": 0,
    "attention.qkv.weight": 0,
    "attention.output.weight": 1,
    "output.weight": 0,
}


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of each part: all that are stored, and those that take part in computing one token.

    All of a model is active but the experts that a token does not choose.
    """

    stored: dict[Part, int]
    active: dict[Part, int]


def parameter_shapes(plan: Plan) -> dict[str, Shape]:
    """By name, the shape of every parameter."""
    model = plan.model
    hidden, ffn = model.hidden_size, model.ffn_hidden_size
    shapes: dict[str, Shape] = {}
    of_layer = layer_shapes(plan)
    for layer in range(model.num_layers):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in of_layer.items()}
    ends = end_shapes(plan)
    shapes = {"embedding.weight": ends.pop("embedding.weight"), **shapes, **ends}
    for expert in range(plan.pools.total_experts):
        shapes |= {f"experts.{expert}.gate_up": (2 * ffn, hidden), f"experts.{expert}.down": (hidden, ffn)}
    return shapes


def layer_shapes(plan: Plan) -> dict[str, Shape]:
    """By name in the layer, the shape of every parameter of one layer but the experts'."""
    model, pool = plan.model, plan.pool
    hidden, head = model.hidden_size, model.hidden_size // model.num_attention_heads
    shapes: dict[str, Shape] = {
        "attention_norm.weight": (hidden,),
        "attention.qkv.weight": ((model.num_attention_heads + 2 * model.num_query_groups) * head, hidden),
        "attention.output.weight": (hidden, hidden),
        "pool_norm.weight": (hidden,),
    }
    if pool.router != "none":
        shapes["router.weight"] = (pool.num_experts, hidden)
    if pool.router == "norm":
        shapes["router.scale"] = (1,)
    return shapes


def end_shapes(plan: Plan) -> dict[str, Shape]:
    """By name, the shape of every parameter of the first and the last stage that is of no layer."""
    vocab, hidden = plan.model.vocab_size, plan.model.hidden_size
    return {"embedding.weight": (vocab, hidden), "final_norm.weight": (hidden,), "output.weight": (vocab, hidden)}


def bias_shapes(plan: Plan) -> dict[str, Shape]:
    """By name, the shape of every router's bias: part of the model, not trained, and no parameter."""
    layers = range(plan.model.num_layers if plan.pool.balance.bias_rate else 0)
    return {f"layers.{layer}.router.bias": (plan.pool.num_experts,) for layer in layers}


def count_parameters(plan: Plan) -> ParameterCounts:
    """Count the parameters of each part."""
    stored: dict[Part, int] = dict.fromkeys(("embedding", "attention", "norms", "routers", "experts"), 0)
    for name, shape in end_shapes(plan).items():
        stored[part_of(name)] += math.prod(shape)
    for name, shape in layer_shapes(plan).items():
        stored[part_of(f"layers.0.{name}")] += plan.model.num_layers * math.prod(shape)
    stored["experts"] = plan.pools.total_experts * expert_parameters(plan)
    chosen = plan.model.num_layers * plan.pool.top_k * expert_parameters(plan)
    return ParameterCounts(stored, {**stored, "experts": chosen})


def expert_parameters(plan: Plan) -> int:
    """Parameters of one expert: gate, up and down."""
    return 3 * plan.model.hidden_size * plan.model.ffn_hidden_size


def part_of(name: str) -> Part:
    """What the parameter ``name`` belongs to."""
    if name.startswith("experts."):
        return "experts"
    if ".router." in name:
        return "routers"
    if ".attention." in name:
        return "attention"
    return "norms" if name.endswith("norm.weight") else "embedding"


def tp_dim(name: str) -> int | None:
    """The dimension of the parameter ``name`` that tensor parallelism splits, ``None`` if every rank has all of it."""
    _, _, in_layer = name.removeprefix("layers.").partition(".")
    return _TP_DIMS.get(in_layer if name.startswith("layers.") else name)
