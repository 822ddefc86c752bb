"""Tiny models of every kind: checkpoints of them, and the logits that the trainer's own model gives."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tests.checkpoint.support import save_step
from tests.support.training import batches_of, built, sequences, tiny_config
from unipool_dist.comm.environment import Environment
from unipool_dist.engine.pipeline import StageBatch
from unipool_dist.engine.step import TrainStep

SOFTMAX = ("pool.router=softmax", "pool.top_k=2")
SIGMOID = ("pool.router=sigmoid", "pool.top_k=2", "pool.balance.bias_rate=0.05")
VANILLA = (*SOFTMAX, "pool.layers_per_group=1", "pool.num_experts=8")
MODELS: dict[str, tuple[str, ...]] = {
    "norm": (),
    "norm-top3-normalized": ("pool.top_k=3", "pool.normalize_gates=true", "model.num_query_groups=1"),
    "norm-groups": ("pool.layers_per_group=2", "pool.top_k=2", "model.num_query_groups=4"),
    "softmax": SOFTMAX,
    "softmax-all": ("pool.router=softmax", "pool.num_experts=4", "pool.top_k=4", "model.rotary_base=500000.0"),
    "sigmoid": ("pool.router=sigmoid", "pool.balance.loss=layer"),
    "sigmoid-bias-groups": (*SIGMOID, "pool.layers_per_group=2"),
    "vanilla": VANILLA,
    "mixtral": (*VANILLA, "pool.normalize_gates=true"),
    "dense": ("pool.router=none", "pool.num_experts=1", "pool.balance.loss=none", "model.norm_epsilon=0.001"),
    "sandwich": (*SOFTMAX, "model.family=sandwich"),
    "sandwich-dense": (
        "model.family=sandwich",
        "pool.router=none",
        "pool.num_experts=1",
        "pool.balance.loss=none",
        "model.num_attention_heads=2",
    ),
    "sandwich-norm-bias": ("model.family=sandwich", "pool.top_k=3", "pool.balance.bias_rate=0.05"),
}
STEP = 3


def train_models(environment: Environment, folder: Path) -> dict[str, Tensor]:
    """Train every model for a few steps and save it in ``folder/NAME``; return their logits [b, s, v] by name."""
    found = {}
    for name, overrides in MODELS.items():
        plan = tiny_config(*overrides)
        with built(plan, environment) as (groups, model, train_step):
            for step in range(STEP):
                train_step.run(step, batches_of(plan, groups, step))
            found[name] = logits_of(train_step)
            save_step(plan, groups, model, train_step, folder / name, STEP)
    return found


def logits_of(train_step: TrainStep) -> Tensor:
    """The logits [b, s, v] of the model, on one rank, for :func:`tokens`."""
    found: list[Tensor] = []
    train_step.pipeline.forward([StageBatch(tokens(), None, None)], lambda _, logits: found.append(logits))
    return found[0].transpose(0, 1).contiguous()


def tokens() -> Tensor:
    """The text [b, s] that all models are asked about."""
    return torch.as_tensor(sequences(9, 4)[0])
