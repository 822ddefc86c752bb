"""What a ``config.json`` of transformers means here: the settings of an equal model, or why there is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from unipool_dist.base.names import OutsideError, regular_inside
from unipool_dist.base.reading import read_json
from unipool_dist.checkpoint.huggingface.config_json import CONFIG_JSON
from unipool_dist.checkpoint.huggingface.names import LLAMA, MIXTRAL, UNIPOOL, Dialect
from unipool_dist.errors import CheckpointError

Settings = dict[str, Any]
"""Fields of a configuration by full name."""


class PublicSizes(BaseModel):
    """The fields of ``config.json`` that decide what a model computes."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    hidden_act: str = "silu"
    initializer_range: float = 0.02
    sliding_window: int | None = None
    use_sliding_window: bool | None = None
    tokenizer_hash: str | None = None

    num_experts: int | None = None
    num_local_experts: int | None = None
    num_experts_per_tok: int | None = None
    norm_topk_prob: bool = False

    layers_per_pool: int | None = None
    router: str = "softmax"
    router_bias: bool = False
    output_norms: bool = False

    @property
    def window(self) -> int | None:
        """Tokens back to which a token attends; ``None``: to all."""
        return self.sliding_window if self.use_sliding_window is not False else None

    @property
    def theta(self) -> float | None:
        """Base of the rotary positions."""
        return (self.rope_parameters or {}).get("rope_theta", self.rope_theta)


@dataclass(frozen=True)
class Meaning:
    """An equal model of ours."""

    settings: Settings
    dialect: Dialect
    has_bias: bool = False
    """Whether its routers have a bias."""
    window: int | None = None
    """The longest sequence for which the models are equal, where there is one."""
    tokenizer_hash: str | None = None
    obstacles: list[str] = field(default_factory=list)
    """Why there is none after all, in words."""


def read_meaning(folder: Path) -> Meaning:
    """Read the ``config.json`` in ``folder``.

    Raises:
        CheckpointError: it cannot be read, or there is no equal model; all reasons are named.
    """
    path = folder / CONFIG_JSON
    try:
        sizes = PublicSizes.model_validate(read_json(regular_inside(folder, CONFIG_JSON)))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:5])
        raise CheckpointError(f"{path} does not describe a decoder: {faults}") from None
    except (OSError, ValueError, OutsideError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if sizes.model_type not in _TYPES:
        raise CheckpointError(
            f"{path} describes a model of the type {sizes.model_type}; what can be imported: {', '.join(_TYPES)}"
        )
    meaning = _TYPES[sizes.model_type](sizes)
    obstacles = [*_obstacles(sizes), *meaning.obstacles]
    if obstacles:
        raise CheckpointError(f"the model in {folder} has no equal here: {'; '.join(obstacles)}")
    return meaning


def overrides(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as they are given on a command line."""
    return [f"{name}={json.dumps(value)}" for name, value in settings.items()]


def _obstacles(sizes: PublicSizes) -> list[str]:
    found = []
    if sizes.hidden_act not in ("silu", "swish"):
        found.append(f"hidden_act={sizes.hidden_act}, where experts here have silu")
    width = sizes.head_dim or sizes.hidden_size // max(sizes.num_attention_heads, 1)
    if width * sizes.num_attention_heads != sizes.hidden_size:
        found.append(
            f"head_dim={width} times num_attention_heads={sizes.num_attention_heads} is not hidden_size="
            f"{sizes.hidden_size}"
        )
    scaling = sizes.rope_scaling or sizes.rope_parameters or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        found.append(f"rotary positions are scaled ({kind})")
    if sizes.theta is None:
        found.append("rope_theta is not given")
    return found


def _common(sizes: PublicSizes) -> Settings:
    length = min(sizes.max_position_embeddings, sizes.window or sizes.max_position_embeddings)
    return {
        "model.family": "llama",
        "model.num_layers": sizes.num_hidden_layers,
        "model.hidden_size": sizes.hidden_size,
        "model.ffn_hidden_size": sizes.intermediate_size,
        "model.num_attention_heads": sizes.num_attention_heads,
        "model.num_query_groups": sizes.num_key_value_heads or sizes.num_attention_heads,
        "model.sequence_length": length,
        "model.vocab_size": sizes.vocab_size,
        "model.rotary_base": sizes.theta,
        "model.norm_epsilon": sizes.rms_norm_eps,
        "model.init_std": sizes.initializer_range,
    }


def _dense(sizes: PublicSizes) -> Settings:
    return {
        "pool.router": "none",
        "pool.num_experts": 1,
        "pool.top_k": 1,
        "pool.layers_per_group": 1,
        "pool.normalize_gates": False,
        "pool.balance.loss": "none",
    }


def _unipool(sizes: PublicSizes) -> Meaning:
    pool = {
        "pool.router": sizes.router,
        "pool.num_experts": sizes.num_experts,
        "pool.top_k": sizes.num_experts_per_tok,
        "pool.layers_per_group": sizes.layers_per_pool,
        "pool.normalize_gates": sizes.norm_topk_prob,
    }
    if sizes.router == "none":
        pool = _dense(sizes)
    obstacles = []
    if sizes.router not in ("norm", "softmax", "sigmoid", "none"):
        obstacles.append(f"router={sizes.router} is not one of the project")
    family = {"model.family": "sandwich" if sizes.output_norms else "llama"}
    return Meaning(
        {**_common(sizes), **family, **pool},
        UNIPOOL,
        has_bias=sizes.router_bias,
        tokenizer_hash=sizes.tokenizer_hash,
        obstacles=obstacles,
    )


def _llama(sizes: PublicSizes) -> Meaning:
    settings = {**_common(sizes), **_dense(sizes)}
    return Meaning(settings, LLAMA, window=sizes.window, tokenizer_hash=sizes.tokenizer_hash)


def _mixtral(sizes: PublicSizes) -> Meaning:
    pool = {
        "pool.router": "softmax",
        "pool.num_experts": sizes.num_local_experts,
        "pool.top_k": sizes.num_experts_per_tok,
        "pool.layers_per_group": 1,
        "pool.normalize_gates": True,
        "pool.balance.loss": "layer",
    }
    settings = {**_common(sizes), **pool}
    return Meaning(settings, MIXTRAL, window=sizes.window, tokenizer_hash=sizes.tokenizer_hash)


_TYPES: Mapping[str, Callable[[PublicSizes], Meaning]] = MappingProxyType(
    {"unipool": _unipool, "llama": _llama, "mistral": _llama, "qwen2": _llama, "mixtral": _mixtral}
)
