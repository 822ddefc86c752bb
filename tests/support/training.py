"""Training a tiny model on any layout, and putting what the ranks return back together. Runs in worker processes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from unipool_dist.comm.environment import Environment
from unipool_dist.comm.groups import ParallelGroups, process_groups
from unipool_dist.config import Plan, load_config, resolve
from unipool_dist.engine.pipeline import StageBatch
from unipool_dist.engine.step import TrainStep
from unipool_dist.model.assembly import PooledModel, build_model
from unipool_dist.model.inventory import spec_of
from unipool_dist.pool.main_grad import main_grad

VOCAB, SEQUENCE = 64, 16
DOCUMENT_END = 46
"""Ends a document with ``data.reset_at_documents``; in each step of :func:`sequences` there are some."""

TINY = (
    "model.num_layers=4",
    "model.hidden_size=32",
    "model.ffn_hidden_size=48",
    "model.num_attention_heads=4",
    "model.num_query_groups=2",
    f"model.sequence_length={SEQUENCE}",
    f"model.vocab_size={VOCAB}",
    "model.init_std=0.1",
    "pool.num_experts=16",
    "train.global_batch_size=6",
    "train.micro_batch_size=1",
    "train.steps=100",
    "optimizer.lr=0.01",
    "optimizer.min_lr=0.001",
    "optimizer.warmup_steps=1",
    "parallel.timeout_s=180",
)


def tiny_config(*overrides: str, world_size: int = 1) -> Plan:
    """A configuration small enough for eight processes on two cores."""
    return resolve(load_config(None, [*TINY, *overrides]), world_size).ending_documents_with(DOCUMENT_END)


def sequences(step: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, labels and loss masks [count, SEQUENCE] of a step; some labels do not count.

    Four tokens in five follow from the one before, so there is something to learn.
    """
    generator = torch.Generator().manual_seed(1000 + step)
    text = torch.randint(0, VOCAB, (count, SEQUENCE + 1), generator=generator)
    follows = torch.rand(count, SEQUENCE + 1, generator=generator) < 0.8
    for i in range(1, SEQUENCE + 1):
        text[:, i] = torch.where(follows[:, i], (3 * text[:, i - 1] + 1) % VOCAB, text[:, i])
    mask = (torch.rand(count, SEQUENCE, generator=generator) > 0.2).float()
    return text[:, :-1], text[:, 1:], mask


def batches_of(config: Plan, groups: ParallelGroups, step: int) -> list[StageBatch]:
    """This rank's micro-batches, in the order in which the trainer takes them."""
    size, dp = config.train.micro_batch_size, groups.grid.dp
    tokens, labels, mask = sequences(step, config.train.global_batch_size)
    starts = range(groups.dp_index * size, config.train.global_batch_size, dp * size)
    return [StageBatch(tokens[i : i + size], labels[i : i + size], mask[i : i + size]) for i in starts]


@dataclass
class RankResult:
    """What one rank saw; tensors as numpy arrays, dense ones as slices of dimension ``tp_dim``."""

    pp_index: int
    dp_index: int
    tp_index: int
    losses: list[float] = field(default_factory=list)
    aux_losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    shares: np.ndarray | None = None
    dense_gradients: dict[str, np.ndarray] = field(default_factory=dict)
    expert_gradients: dict[str, np.ndarray] = field(default_factory=dict)
    dense_weights: dict[str, np.ndarray] = field(default_factory=dict)
    expert_weights: dict[str, np.ndarray] = field(default_factory=dict)
    biases: dict[int, np.ndarray] = field(default_factory=dict)
    tp_dims: dict[str, int | None] = field(default_factory=dict)
    num_local_experts: int = 0


@contextmanager
def built(config: Plan, environment: Environment) -> Iterator[tuple[ParallelGroups, PooledModel, TrainStep]]:
    """A model on this rank, ready to train."""
    gc.collect()  # what an earlier one left in cycles holds groups, whose threads wake a hundred times a second
    if not gc.get_freeze_count():
        gc.freeze()  # modules, not to be looked through every time
    with process_groups(config, environment) as groups:
        model = build_model(config, groups)
        train_step = TrainStep(config, groups, model)
        yield groups, model, train_step
        train_step.optimizer.close()


def train_variants(
    environment: Environment, variants: list[tuple[str, ...]], ports: list[int], steps: int
) -> list[RankResult]:
    """Train every variant for ``steps`` steps; keep the gradients of the first step and the weights after the last.

    The gradients are the first step's because there the weights are equal bit for bit; so that they include those of
    the auxiliary loss, training starts from shares of assignments as if a step had been. Each variant is a tuple of
    overrides, and meets at a port of its own.
    """
    return [
        _train(replace(environment, master_port=port), tiny_config(*variant, world_size=environment.world_size), steps)
        for variant, port in zip(variants, ports, strict=True)
    ]


def _train(environment: Environment, config: Plan, steps: int) -> RankResult:
    with built(config, environment) as (groups, model, train_step):
        result = RankResult(groups.pp_index, groups.dp_index, groups.tp_index)
        result.num_local_experts = len(model.expert_ids)
        state = model.balance.state_dict()
        model.balance.load_state_dict(state | {"share": some_shares(state["share"])})
        for step in range(steps):
            with gradients_kept(train_step, model, result) if step == 0 else nullcontext():
                seen = train_step.run(step, batches_of(config, groups, step))
            result.losses.append(seen.loss)
            result.aux_losses.append(seen.aux_loss)
            result.grad_norms.append(seen.grad_norm)
        result.shares = model.balance.state_dict()["share"].numpy()
        for name, parameter in model.named_dense_parameters():
            result.tp_dims[name] = spec_of(parameter).tp_dim
            result.dense_weights[name] = parameter.detach().float().numpy().copy()
        result.biases = {layer: bias.numpy().copy() for layer, bias in model.router_biases().items()}
        result.expert_weights = _by_expert(model, {n: p.detach() for n, p in model.named_expert_parameters()})
    return result


def some_shares(like_PM: torch.Tensor) -> torch.Tensor:
    """Uneven shares of assignments, the same on every rank; each pool's sum to 1."""
    shares = torch.rand(like_PM.shape, generator=torch.Generator().manual_seed(7))
    return shares / shares.sum(dim=-1, keepdim=True)


@contextmanager
def gradients_kept(train_step: TrainStep, model: PooledModel, result: RankResult) -> Iterator[None]:
    """Copy this rank's gradients just before they are reduced over data parallelism."""
    reduce = train_step.optimizer.reduce_gradients

    def copy_and_reduce() -> float:
        for name, parameter in model.named_dense_parameters():
            result.dense_gradients[name] = main_grad(parameter).numpy().copy()
        result.expert_gradients = _by_expert(model, {n: main_grad(p) for n, p in model.named_expert_parameters()})
        return reduce()

    train_step.optimizer.reduce_gradients = copy_and_reduce  # type: ignore[method-assign]
    try:
        yield
    finally:
        train_step.optimizer.reduce_gradients = reduce  # type: ignore[method-assign]


def _by_expert(model: PooledModel, tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {
        f"experts.{expert}.{name}": tensor[slot].float().numpy().copy()
        for name, tensor in tensors.items()
        for slot, expert in enumerate(model.expert_ids)
    }


def assemble_gradients(ranks: list[RankResult]) -> dict[str, np.ndarray]:
    """Whole gradients by parameter name: summed over replicas, put together over tensor parallelism."""
    whole: dict[str, Any] = {}
    for dp_index in sorted({rank.dp_index for rank in ranks}):
        for name, value in _join_tensor_parallel(
            [r for r in ranks if r.dp_index == dp_index], "dense_gradients"
        ).items():
            whole[name] = whole.get(name, 0) + value
    for rank in ranks:
        for name, value in rank.expert_gradients.items():
            whole[name] = whole.get(name, 0) + value
    return whole


def assemble_weights(ranks: list[RankResult]) -> dict[str, np.ndarray]:
    """Whole weights by parameter name; replicas must be equal bit for bit."""
    whole: dict[str, np.ndarray] = {}
    for dp_index in sorted({rank.dp_index for rank in ranks}):
        for name, value in _join_tensor_parallel([r for r in ranks if r.dp_index == dp_index], "dense_weights").items():
            np.testing.assert_array_equal(whole.setdefault(name, value), value, err_msg=f"replicas of {name} differ")
    for rank in ranks:
        for name, value in rank.expert_weights.items():
            np.testing.assert_array_equal(whole.setdefault(name, value), value, err_msg=f"replicas of {name} differ")
    return whole


def _join_tensor_parallel(ranks: list[RankResult], what: str) -> dict[str, np.ndarray]:
    whole = {}
    for name, dim in {name: dim for rank in ranks for name, dim in rank.tp_dims.items()}.items():
        slices = [getattr(rank, what)[name] for rank in sorted(ranks, key=lambda r: r.tp_index) if name in rank.tp_dims]
        if dim is None:
            for other in slices[1:]:
                np.testing.assert_array_equal(slices[0], other, err_msg=f"{name} differs between tensor-parallel ranks")
            whole[name] = slices[0]
        else:
            whole[name] = np.concatenate(slices, axis=dim)
    return whole


def relative_difference(value: np.ndarray, reference: np.ndarray) -> float:
    """``||value - reference|| / ||reference||``; 0 if both are exactly 0, infinite if only the reference is."""
    difference, norm = float(np.linalg.norm(value - reference)), float(np.linalg.norm(reference))
    return difference / norm if norm else (0.0 if difference == 0.0 else float("inf"))
