"""The baselines against a transformer written out here in plain torch: an MoE in each layer, or a dense FFN.

It shares nothing with the trainer but the weights: no module, no function, and it computes in float64. So what the
trainer's fp32 differs by is rounding; :data:`TOLERANCE` is what is allowed of the norm of each gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.training import (
    RankResult,
    batches_of,
    built,
    gradients_kept,
    relative_difference,
    sequences,
    tiny_config,
)
from tests.support.workers import Workers
from unipool_dist.comm.environment import Environment
from unipool_dist.config import Plan

TOLERANCE = 3e-6
"""Below 8e-7 was seen."""

COMMON = ("train.micro_batch_size=2", "optimizer.name=sgd", "pool.balance.alpha=0.1")
VANILLA = ("pool.layers_per_group=1", "pool.router=softmax", "pool.balance.loss=layer", "pool.num_experts=8")
MODELS = {
    "vanilla": VANILLA,
    "vanilla-top2": (*VANILLA, "pool.top_k=2"),
    "vanilla-bias": (*VANILLA, "pool.router=sigmoid", "pool.balance.loss=none", "pool.balance.bias_rate=0.001"),
    "dense": ("pool.router=none", "pool.num_experts=1", "pool.balance.loss=none"),
    "sandwich": (*VANILLA, "pool.top_k=2", "model.family=sandwich"),
}

Weights = dict[str, Tensor]


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + epsilon).sqrt()


def rotate(x: Tensor, base: float) -> Tensor:
    """Turn the pair (x_j, x_(j + d/2)) of a head at position t by t / base^(2 j / d), in x [b, s, heads, d]."""
    length, half = x.shape[1], x.shape[3] // 2
    angle = torch.arange(length)[:, None] * base ** -(torch.arange(half, dtype=torch.float64) / half)
    pairs = torch.complex(x[..., :half], x[..., half:])
    turned = pairs * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([turned.real, turned.imag], dim=-1)


def attention(x: Tensor, qkv: Tensor, output: Tensor, config: Plan) -> Tensor:
    model = config.model
    assert model.num_query_groups is not None
    (b, s, h), g, d = x.shape, model.num_query_groups, model.hidden_size // model.num_attention_heads
    parts = (x @ qkv.T).view(b, s, g, -1, d)  # of each group its queries, its key, its value
    query, key, value = parts[..., :-2, :].flatten(2, 3), parts[..., -2, :], parts[..., -1, :]
    query, key = rotate(query, model.rotary_base), rotate(key, model.rotary_base)
    repeats = model.num_attention_heads // g
    key, value = key.repeat_interleave(repeats, dim=2), value.repeat_interleave(repeats, dim=2)
    score = torch.einsum("bqad,bkad->baqk", query, key) / d**0.5
    score = score.masked_fill(torch.ones(s, s).triu(1).bool(), float("-inf"))
    return torch.einsum("baqk,bkad->bqad", score.softmax(-1), value).reshape(b, s, h) @ output.T


def feed_forward(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = (x @ gate_up.T).chunk(2, dim=-1)
    return (F.silu(gate) * up) @ down.T


def mixture(x: Tensor, layer: int, weights: Weights, config: Plan) -> tuple[Tensor, Tensor]:
    """Output of the layer's own experts for tokens [T, h], and ``alpha M sum_i f_i P_i`` (arXiv 2101.03961)."""
    num_experts, top_k = config.pool.num_experts, config.pool.top_k
    experts = [(weights[f"experts.{e}.gate_up"], weights[f"experts.{e}.down"]) for e in _experts(layer, num_experts)]
    if config.pool.router == "none":
        return feed_forward(x, *experts[0]), x.new_zeros(())
    logit, bias = x @ weights[f"layers.{layer}.router.weight"].T, weights.get(f"layers.{layer}.router.bias", 0.0)
    score = logit.sigmoid() if config.pool.router == "sigmoid" else logit.softmax(-1)
    chosen = torch.zeros_like(score).scatter(1, (score + bias).topk(top_k).indices, 1.0)
    out = sum(
        ((score * chosen)[:, [i]] * feed_forward(x, *expert) for i, expert in enumerate(experts)), x.new_zeros(())
    )
    if config.pool.balance.loss == "none":
        return out, x.new_zeros(())
    share = chosen.sum(0) / (top_k * len(x))
    return out, config.pool.balance.alpha * num_experts * (share * score.mean(0)).sum()


def _experts(layer: int, num_experts: int) -> range:
    return range(layer * num_experts, (layer + 1) * num_experts)


def after(x: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    """The norm that only some families have after attention and experts."""
    return x if weight is None else rms_norm(x, weight, epsilon)


def transformer(tokens: Tensor, weights: Weights, config: Plan) -> tuple[Tensor, Tensor]:
    """Logits [b, s, V], and the auxiliary loss summed over layers."""
    epsilon, aux = config.model.norm_epsilon, torch.zeros((), dtype=torch.float64)
    x = weights["embedding.weight"][tokens]
    for layer in range(config.model.num_layers):
        own = {name.removeprefix(f"layers.{layer}."): value for name, value in weights.items()}
        normed = rms_norm(x, own["attention_norm.weight"], epsilon)
        attended = attention(normed, own["attention.qkv.weight"], own["attention.output.weight"], config)
        x = x + after(attended, own.get("attention_output_norm.weight"), epsilon)
        out, balance = mixture(rms_norm(x, own["pool_norm.weight"], epsilon).flatten(0, 1), layer, weights, config)
        x, aux = x + after(out.view_as(x), own.get("pool_output_norm.weight"), epsilon), aux + balance
    output = weights.get("output.weight", weights["embedding.weight"])
    return rms_norm(x, weights["final_norm.weight"], epsilon) @ output.T, aux


@dataclass
class Ours:
    """Weights and biases of routers before the first step of the trainer, and what that step gave."""

    weights: dict[str, np.ndarray]
    loss: float
    aux_loss: float
    grad_norm: float
    gradients: dict[str, np.ndarray]


def _first_step(environment: Environment, overrides: tuple[str, ...]) -> Ours:
    config = tiny_config(*COMMON, *overrides)
    with built(config, environment) as (groups, model, train_step):
        weights = {name: parameter.detach().numpy().copy() for name, parameter in model.named_dense_parameters()}
        for name, parameter in model.named_expert_parameters():
            stack = parameter.detach().numpy().copy()
            weights |= {f"experts.{expert}.{name}": stack[slot] for slot, expert in enumerate(model.expert_ids)}
        for layer, bias in model.router_biases().items():
            bias.copy_(torch.linspace(-0.1, 0.1, len(bias)).roll(layer))
            weights[f"layers.{layer}.router.bias"] = bias.numpy().copy()
        result = RankResult(0, 0, 0)
        with gradients_kept(train_step, model, result):
            seen = train_step.run(0, batches_of(config, groups, 0))
        gradients = result.dense_gradients | result.expert_gradients
        return Ours(weights, seen.loss, seen.aux_loss, seen.grad_norm, gradients)


@pytest.mark.parametrize("model", MODELS)
def test_loss_auxiliary_loss_and_all_gradients(workers: Workers, model: str) -> None:
    config = tiny_config(*COMMON, *MODELS[model])
    (ours,) = workers.run(_first_step, 1, MODELS[model])
    weights = {name: torch.from_numpy(value).double().requires_grad_() for name, value in ours.weights.items()}

    size = config.train.micro_batch_size
    tokens, labels, mask = sequences(0, config.train.global_batch_size)
    loss, aux = torch.zeros(2, dtype=torch.float64).unbind()
    starts = range(0, len(tokens), size)
    for start in starts:  # each micro-batch is balanced for itself
        rows = slice(start, start + size)
        logits, balance = transformer(tokens[rows], weights, config)
        losses = F.cross_entropy(logits.flatten(0, 1), labels[rows].flatten(), reduction="none")
        loss = loss + (losses * mask[rows].flatten()).sum() / mask.sum()
        aux = aux + balance / len(starts)
    trained = {name: weight for name, weight in weights.items() if not name.endswith("router.bias")}
    gradients = dict(zip(trained, torch.autograd.grad(loss + aux, list(trained.values())), strict=True))

    assert ours.loss == pytest.approx(loss.item(), rel=1e-6)
    assert ours.aux_loss == pytest.approx(aux.item(), rel=1e-6)
    assert (aux.item() > 0) == (config.pool.balance.loss != "none")
    assert ours.gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        difference = relative_difference(ours.gradients[name].astype(np.float64), gradient.numpy())
        assert difference < TOLERANCE, f"gradient of {name} differs by {difference:.1e}"
    norm = sum(float(gradient.norm()) ** 2 for gradient in gradients.values()) ** 0.5
    assert ours.grad_norm == pytest.approx(norm, rel=1e-6)
