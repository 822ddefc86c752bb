"""``config.json``: the sizes of a model as transformers writes them, for our own class or for one of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from unipool_dist.checkpoint.huggingface.names import LLAMA, MIXTRAL, UNIPOOL, Dialect
from unipool_dist.config.plan import Plan
from unipool_dist.errors import CheckpointError
from unipool_dist.model.families import inventory
from unipool_dist.pool.router import NORM_EPSILON, norm_constant

CONFIG_JSON = "config.json"
MODELLING_FILE = "modeling_unipool.py"

ClassName = Literal["unipool", "llama", "mixtral"]


@dataclass(frozen=True)
class PublicClass:
    """A class of models for transformers."""

    dialect: Dialect
    obstacles: Callable[[Plan], list[str]]
    """What keeps a model from being of this class, in words."""
    fields: Callable[[Plan], dict[str, Any]]
    """What ``config.json`` has besides what all classes have."""


def public_config(plan: Plan, class_name: ClassName, dtype: str) -> dict[str, Any]:
    """Return the content of ``config.json``.

    Args:
        dtype: type of the weights, as torch calls it.

    Raises:
        CheckpointError: the model cannot be of this class; the message names the fields.
    """
    check_class(plan, class_name)
    model = plan.model
    common = {
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "head_dim": model.hidden_size // model.num_attention_heads,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.sequence_length,
        "rope_theta": model.rotary_base,
        "rms_norm_eps": model.norm_epsilon,
        "hidden_act": "silu",
        "initializer_range": model.init_std,
        "tie_word_embeddings": bool(inventory(plan).tied),
        "use_cache": True,
        "torch_dtype": dtype,  # transformers 5 reads this name and `dtype`, earlier versions this one
    }
    return {**PUBLIC_CLASSES[class_name].fields(plan), **common}


def check_class(plan: Plan, class_name: ClassName) -> None:
    """Refuse a model that cannot be of a class of transformers.

    Raises:
        CheckpointError: it cannot; the message names the fields.
    """
    obstacles = PUBLIC_CLASSES[class_name].obstacles(plan)
    if obstacles:
        instead = "" if class_name == "unipool" else "; leave out --as for a class of its own"
        raise CheckpointError(f"the model cannot be written as {class_name}: {', '.join(obstacles)}{instead}")


def _unknown_code(plan: Plan) -> list[str]:
    """Return what a model has that only a user's own code can compute."""
    found = []
    if plan.model.family not in ("llama", "sandwich"):
        found.append(f"model.family={plan.model.family} is not one of the project")
    if plan.pool.router not in ("norm", "softmax", "sigmoid", "none"):
        found.append(f"pool.router={plan.pool.router} is not one of the project")
    return found


def _not_llama(plan: Plan) -> list[str]:
    found = _other_layers(plan)
    if plan.pool.router != "none":
        found.append(f"pool.router={plan.pool.router}, where it needs none")
    return found


def _not_mixtral(plan: Plan) -> list[str]:
    pool, found = plan.pool, _other_layers(plan)
    if pool.router != "softmax":
        found.append(f"pool.router={pool.router}, where it needs softmax")
    if not pool.normalize_gates:
        found.append("pool.normalize_gates=false, where it needs true")
    if pool.layers_per_group != 1:
        found.append(f"pool.layers_per_group={pool.layers_per_group}, where it needs 1")
    if pool.balance.bias_rate:
        found.append("the routers have a bias (pool.balance.bias_rate)")
    return found


def _other_layers(plan: Plan) -> list[str]:
    return [] if plan.model.family == "llama" else [f"model.family={plan.model.family}, where it needs llama"]


def _unipool(plan: Plan) -> dict[str, Any]:
    pool = plan.pool
    module = MODELLING_FILE.removesuffix(".py")
    return {
        "architectures": ["UniPoolForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{module}.UniPoolConfig",
            "AutoModel": f"{module}.UniPoolModel",
            "AutoModelForCausalLM": f"{module}.UniPoolForCausalLM",
        },
        "model_type": "unipool",
        "num_experts": pool.num_experts,
        "num_experts_per_tok": pool.top_k,
        "layers_per_pool": pool.layers_per_group,
        "router": pool.router,
        "router_constant": norm_constant(pool.num_experts, pool.top_k) if pool.router == "norm" else 1.0,
        "router_epsilon": NORM_EPSILON,
        "router_bias": pool.balance.bias_rate > 0,
        "norm_topk_prob": pool.normalize_gates,
        "output_norms": plan.model.family == "sandwich",
    }


def _llama(plan: Plan) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "mlp_bias": False,
    }


def _mixtral(plan: Plan) -> dict[str, Any]:
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": plan.pool.num_experts,
        "num_experts_per_tok": plan.pool.top_k,
        "sliding_window": None,
        "router_aux_loss_coef": plan.pool.balance.alpha if plan.pool.balance.loss != "none" else 0.0,
    }


PUBLIC_CLASSES: Mapping[ClassName, PublicClass] = MappingProxyType(
    {
        "unipool": PublicClass(UNIPOOL, _unknown_code, _unipool),
        "llama": PublicClass(LLAMA, _not_llama, _llama),
        "mixtral": PublicClass(MIXTRAL, _not_mixtral, _mixtral),
    }
)
