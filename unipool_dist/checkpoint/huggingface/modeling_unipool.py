"""UniPool (arXiv 2605.06665) for transformers: a decoder whose layers share pools of experts, each with its own router.

    FFN_l(x) = sum over i in top-k(s_l(x)) of  s_l,i(x) * expert_i(x)

This file needs torch and transformers (5.x) only. ``AutoModelForCausalLM.from_pretrained(FOLDER,
trust_remote_code=True)`` imports it from the folder of a model.

Shapes: B sequences, S tokens of each, T = B * S, K choices of a token, M experts of a pool, D hidden size, F width of
an expert.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.integrations import use_experts_implementation
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class UniPoolConfig(PreTrainedConfig):
    """The sizes of a model. ``config.json`` has them by these names."""

    model_type = "unipool"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012  # as transformers declares it

    vocab_size: int = 32_000
    hidden_size: int = 768
    intermediate_size: int = 3072
    """F, of one expert."""
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: int = 12
    head_dim: int = 64
    max_position_embeddings: int = 2048
    """Tokens of a sequence in training. Longer ones are computed, with positions that were never seen."""
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    output_norms: bool = False
    """Whether attention and experts are normalised after, too, before they are added."""
    num_experts: int = 64
    """M; a dense model has one expert in each pool."""
    num_experts_per_tok: int = 1
    layers_per_pool: int = 12
    """Neighbouring layers that share a pool; 1: an ordinary mixture of experts."""
    router: Literal["norm", "softmax", "sigmoid", "none"] = "norm"
    router_constant: float = 1.0
    """``c`` of the router ``norm``."""
    router_epsilon: float = 1e-8
    """``eps`` of the router ``norm``."""
    router_bias: bool = False
    """Whether the experts are chosen by score plus bias, and weighed by score."""
    norm_topk_prob: bool = False
    """Whether the scores of the chosen experts are divided by their sum."""
    initializer_range: float = 0.02
    hidden_act: str = "silu"
    use_cache: bool = True
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    tokenizer_hash: str | None = None
    """Of the tokenizer's files, so that unipool_dist knows it again."""


class UniPoolRouter(nn.Module):
    """Scores of one layer for the experts of its pool, in fp32 whatever the type of the model.

    With ``z = W x``: norm is ``s = scale * c * relu(z / (||z|| + eps))``, softmax and sigmoid are these of ``z``.
    """

    def __init__(self, config: UniPoolConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        if config.router == "norm":
            self.scale = nn.Parameter(torch.ones(1))
        if config.router_bias:
            self.bias = nn.Parameter(torch.zeros(config.num_experts), requires_grad=False)

    def forward(self, tokens_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chosen experts [T, K] and their weights [T, K] in fp32."""
        config = self.config
        with torch.autocast(tokens_TD.device.type, enabled=False):
            scores_TM = self._scores(F.linear(tokens_TD.float(), self.weight.float()))
        order_TM = scores_TM
        if config.router_bias:
            order_TM = (scores_TM + self.bias.float()).masked_fill(scores_TM <= 0, -torch.inf)
        expert_TK = order_TM.topk(config.num_experts_per_tok, dim=-1).indices
        weight_TK = scores_TM.gather(-1, expert_TK)
        if config.norm_topk_prob:
            weight_TK = weight_TK / (weight_TK.sum(dim=-1, keepdim=True) + 1e-20)  # all may be 0
        return expert_TK, weight_TK

    def _scores(self, logits_TM: Tensor) -> Tensor:
        if self.config.router == "softmax":
            return logits_TM.softmax(dim=-1)
        if self.config.router == "sigmoid":
            return logits_TM.sigmoid()
        norm_T1 = torch.linalg.vector_norm(logits_TM, dim=-1, keepdim=True)
        scale = self.scale.float() * self.config.router_constant
        return torch.relu(logits_TM / (norm_T1 + self.config.router_epsilon)) * scale


@use_experts_implementation
class UniPoolExperts(nn.Module):
    """One pool of SwiGLU experts, held once for all the layers that it serves.

    ``experts_implementation`` of ``from_pretrained`` chooses among the ways of transformers to compute them. With
    ``eager`` each expert that is chosen is run once, on all of its tokens.
    """

    def __init__(self, config: UniPoolConfig) -> None:
        super().__init__()
        self.num_experts = config.num_experts
        self.gate_up_proj = nn.Parameter(
            torch.empty(config.num_experts, 2 * config.intermediate_size, config.hidden_size)
        )
        self.down_proj = nn.Parameter(torch.empty(config.num_experts, config.hidden_size, config.intermediate_size))
        self.act_fn = nn.SiLU()

    def forward(self, tokens_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor) -> Tensor:
        """Return ``sum over k of weight * expert(token)`` for each token, [T, D]."""
        pairs = expert_TK.flatten().argsort(stable=True)
        sources = pairs // expert_TK.shape[1]
        counts = torch.bincount(expert_TK.flatten(), minlength=self.num_experts).tolist()
        rows = tokens_TD[sources].split(counts)
        results = torch.cat([self._run(expert, part) for expert, part in enumerate(rows) if len(part)])
        weighted = (results * weight_TK.flatten()[pairs].unsqueeze(1)).to(tokens_TD.dtype)
        return torch.zeros_like(tokens_TD).index_add_(0, sources, weighted)

    def _run(self, expert: int, rows: Tensor) -> Tensor:
        gate, up = F.linear(rows, self.gate_up_proj[expert]).chunk(2, dim=-1)
        return F.linear(self.act_fn(gate) * up, self.down_proj[expert])


def rotary_table(config: UniPoolConfig, position_BS: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of rotary positions (arXiv 2104.09864), [B, 1, S, head_dim] each, typed as ``like``."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=like.device) / config.head_dim
    frequency = config.rope_theta**-exponents
    with torch.autocast(like.device.type, enabled=False):
        angle = position_BS.to(like.device)[:, None, :, None].float() * frequency
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [B, heads, S, head_dim] by its positions: ``x * cos + [-x2, x1] * sin`` with ``x = [x1, x2]``."""
    x1, x2 = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-x2, x1], dim=-1) * sin


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attend as ``attn_implementation="eager"`` does, with the mask added; arguments as transformers passes them."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    probabilities = F.dropout(probabilities, p=dropout, training=module.training)
    return (probabilities @ value).transpose(1, 2).contiguous(), probabilities


class UniPoolAttention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, config: UniPoolConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer_idx, self.head_dim = config, layer, config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5
        self.is_causal = True
        queries, keys = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Any, past_key_values: Cache | None, **kwargs: Any
    ) -> Tensor:
        """Attend within x [B, S, D] and to what the cache holds."""
        size = (*x.shape[:-1], -1, self.head_dim)
        query, key, value = (proj(x).view(size).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        query, key = rotate(query, *rotary), rotate(key, *rotary)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        out, _ = attend(self, query, key, value, mask, dropout=0.0, scaling=self.scaling, **kwargs)
        return self.o_proj(out.reshape(*x.shape[:-1], -1))


class UniPoolDecoderLayer(GradientCheckpointingLayer):
    """``h = x + attention(norm(x))``, then ``h + pool(norm(h))``; the pool is passed in, as layers share it."""

    def __init__(self, config: UniPoolConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = UniPoolAttention(config, layer)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.router = UniPoolRouter(config) if config.router != "none" else None
        self.attention_output_norm: nn.Module = nn.Identity()
        self.pool_output_norm: nn.Module = nn.Identity()
        if config.output_norms:
            self.attention_output_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
            self.pool_output_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, x: Tensor, pool: Callable[[Tensor, Tensor, Tensor], Tensor], rotary: tuple[Tensor, Tensor], **kwargs: Any
    ) -> Tensor:
        """Return the layer's output for x [B, S, D]."""
        h = x + self.attention_output_norm(self.self_attn(self.input_layernorm(x), rotary, **kwargs))
        tokens_TD = self.post_attention_layernorm(h).flatten(0, 1)
        if self.router is not None:
            expert_TK, weight_TK = self.router(tokens_TD)
        else:
            expert_TK = torch.zeros(len(tokens_TD), 1, dtype=torch.int64, device=h.device)
            weight_TK = tokens_TD.new_ones(len(tokens_TD), 1)
        out = pool(tokens_TD, expert_TK, weight_TK).to(h.device)  # a pool may be on another device than a layer
        return h + self.pool_output_norm(out.view_as(h))


class UniPoolPreTrainedModel(PreTrainedModel):
    """What both models have in common."""

    config_class = UniPoolConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["UniPoolDecoderLayer", "UniPoolExperts"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _keep_in_fp32_modules_strict = ["router"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, UniPoolExperts):
            init.normal_(module.gate_up_proj, mean=0.0, std=std)
            init.normal_(module.down_proj, mean=0.0, std=std)
        elif isinstance(module, UniPoolRouter):
            init.normal_(module.weight, mean=0.0, std=std)
            if module.config.router == "norm":
                init.ones_(module.scale)
            if module.config.router_bias:
                init.zeros_(module.bias)


class UniPoolModel(UniPoolPreTrainedModel):
    """Embedding, layers, pools and the last norm."""

    def __init__(self, config: UniPoolConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(UniPoolDecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        pools = range(config.num_hidden_layers // config.layers_per_pool)
        self.pools = nn.ModuleList(UniPoolExperts(config) for _ in pools)
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the last hidden states [B, S, D]; arguments as of every decoder in transformers.

        Of packed documents, those whose positions begin at 0 again do not see each other, if there is neither an
        attention mask nor a cache.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            start = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(start, start + x.shape[1], device=x.device).unsqueeze(0)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=x,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        rotary = rotary_table(self.config, position_ids, x)
        states = []
        for number, layer in enumerate(self.layers):
            states.append(x)
            # Not the module itself: what accelerate finds in the arguments of a layer it moves to the layer's device.
            pool = self.pools[number // self.config.layers_per_pool].__call__
            x = layer(x, pool=pool, rotary=rotary, mask=mask, past_key_values=past_key_values, **kwargs)
        x = self.norm(x)
        output = BaseModelOutputWithPast(
            last_hidden_state=x,
            past_key_values=past_key_values,
            hidden_states=(*states, x) if output_hidden_states else None,
        )
        return output if return_dict is not False else output.to_tuple()


class UniPoolForCausalLM(UniPoolPreTrainedModel, GenerationMixin):
    """The language model."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: UniPoolConfig) -> None:
        super().__init__(config)
        self.model = UniPoolModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return logits [B, S, vocabulary] and, with labels [B, S], their mean loss; a label of -100 does not count.

        Labels are the tokens themselves: each position is held against the next. Nothing in the loss balances experts.
        """
        outputs = self.model(input_ids, **kwargs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, num_items_in_batch=num_items_in_batch
            )
        output = CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values, hidden_states=outputs.hidden_states
        )
        return output if return_dict is not False else output.to_tuple()
