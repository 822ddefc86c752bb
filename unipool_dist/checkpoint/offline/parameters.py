"""Names and shapes of the parameters of a whole model, from its configuration alone. Pure, no torch."""

from __future__ import annotations

from unipool_dist.checkpoint.pieces import Shape
from unipool_dist.config import Config


def parameter_shapes(config: Config) -> dict[str, Shape]:
    """By name, the shape of every parameter; ``config`` is resolved and has a vocabulary size."""
    model, pool = config.model, config.pool
    vocab, hidden, ffn = model.vocab_size, model.hidden_size, model.ffn_hidden_size
    assert vocab is not None and ffn is not None
    assert model.num_query_groups is not None and pool.layers_per_group is not None
    head = hidden // model.num_attention_heads
    shapes: dict[str, Shape] = {"embedding.weight": (vocab, hidden)}
    for layer in range(model.num_layers):
        of_layer: dict[str, Shape] = {
            "attention_norm.weight": (hidden,),
            "attention.qkv.weight": ((model.num_attention_heads + 2 * model.num_query_groups) * head, hidden),
            "attention.output.weight": (hidden, hidden),
            "pool_norm.weight": (hidden,),
            "router.weight": (pool.num_experts, hidden),
        }
        if pool.router == "norm":
            of_layer["router.scale"] = (1,)
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in of_layer.items()}
    shapes |= {"final_norm.weight": (hidden,), "output.weight": (vocab, hidden)}
    for expert in range(pool.num_experts * model.num_layers // pool.layers_per_group):
        shapes |= {f"experts.{expert}.gate_up": (2 * ffn, hidden), f"experts.{expert}.down": (hidden, ffn)}
    return shapes
