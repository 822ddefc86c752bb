"""Bytes that every rank holds from its first step to its last: weights, gradients, and optimizer states under ZeRO.

Not counted: routers' biases (M numbers for each layer), activations, what experts keep for backward, and what is there
only during the update, which is the reduced gradient and the buckets (ds_configs/README.md).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from unipool_dist.config import Config
from unipool_dist.config.deepspeed import read_deepspeed_config
from unipool_dist.config.sections import OptimizerSection
from unipool_dist.sizing.parameters import Shape, expert_parameters, parameter_shapes, part_of, tp_dim
from unipool_dist.topology.layout import rank_grid
from unipool_dist.topology.rank_grid import RankGrid

_WEIGHT_BYTES = {"fp32": 4, "bf16": 2}
_FP32_BYTES = 4
_ALIGNMENT = 2
"""DeepSpeed makes the elements of a rank's partition a multiple of this."""


@dataclass(frozen=True)
class RankMemory:
    """What one rank holds."""

    dense_parameters: int
    """Everything but the experts."""
    expert_parameters: int
    weight_bytes: int
    gradient_bytes: int
    """``main_grad``, the fp32 sum over micro-batches."""
    master_bytes: int
    moment_bytes: int
    """Of Adam two, of SGD with momentum one."""

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.gradient_bytes + self.master_bytes + self.moment_bytes


@dataclass(frozen=True)
class RankKind:
    """The ranks of some pipeline stages, which all hold equally much."""

    stages: tuple[int, ...]
    num_ranks: int
    """In these stages together."""
    each: RankMemory


def rank_kinds(config: Config) -> list[RankKind]:
    """The kinds of ranks in the layout of ``config``, by their first stage.

    Raises:
        UnipoolError: the layout is impossible, or the DeepSpeed file cannot be used.
    """
    grid = rank_grid(config)
    alike: dict[RankMemory, list[int]] = defaultdict(list)
    for stage in range(grid.pp):
        alike[_rank_of_stage(config, grid, stage)].append(stage)
    return [RankKind(tuple(stages), len(stages) * grid.dp * grid.tp, each) for each, stages in alike.items()]


def num_moments(optimizer: OptimizerSection) -> int:
    """Tensors that the optimizer keeps for each parameter, beside the master."""
    return 2 if optimizer.name == "adamw" else int(optimizer.momentum > 0)


def _rank_of_stage(config: Config, grid: RankGrid, stage: int) -> RankMemory:
    groups = _dense_groups(config, _dense_shapes(config, grid, stage))
    num_experts, replicas = _experts(config, grid, stage)
    experts = num_experts * expert_parameters(config)
    dense = sum(groups.values())
    fp32_dense = sum(numel for (is_fp32, _, _), numel in groups.items() if is_fp32)
    sharded = read_deepspeed_config(config.optimizer.deepspeed).stage == 1
    states = sum(_partition(numel, grid.dp if sharded else 1) for numel in groups.values())
    states += _partition(experts, replicas if sharded else 1)
    return RankMemory(
        dense_parameters=dense,
        expert_parameters=experts,
        weight_bytes=_FP32_BYTES * fp32_dense + _WEIGHT_BYTES[config.train.dtype] * (dense - fp32_dense + experts),
        gradient_bytes=_FP32_BYTES * (dense + experts),
        master_bytes=_FP32_BYTES * states,
        moment_bytes=_FP32_BYTES * states * num_moments(config.optimizer),
    )


def _dense_shapes(config: Config, grid: RankGrid, stage: int) -> dict[str, Shape]:
    """By name, a rank's slice of every parameter of its stage but the experts'."""
    layers = grid.layers_of_stage(config.model.num_layers)[stage]
    of_stage = tuple(f"layers.{layer}." for layer in layers)
    of_stage += ("embedding.",) if stage == 0 else ()
    of_stage += ("final_norm.", "output.") if stage == grid.pp - 1 else ()
    return {
        name: tuple(size // grid.tp if dim == tp_dim(name) else size for dim, size in enumerate(shape))
        for name, shape in parameter_shapes(config).items()
        if name.startswith(of_stage)
    }


def _dense_groups(config: Config, dense: Mapping[str, Shape]) -> dict[tuple[bool, bool, bool], int]:
    """Elements of each parameter group, as the optimizer makes them: by type, split over tp or not, decaying or not."""
    groups: dict[tuple[bool, bool, bool], int] = defaultdict(int)
    for name, shape in dense.items():
        is_fp32 = config.train.dtype == "fp32" or part_of(name) == "routers"
        groups[is_fp32, tp_dim(name) is not None, len(shape) > 1] += math.prod(shape)
    return groups


def _experts(config: Config, grid: RankGrid, stage: int) -> tuple[int, int]:
    """Experts on a rank, and the ranks that hold the same ones."""
    assert config.pool.layers_per_group is not None
    group = stage // grid.stages_per_group
    spans = grid.pool_spans(config.model.num_layers, config.pool.layers_per_group)
    held = [(first, last) for first, last in spans if first <= group <= last]
    replicas = len(grid.expert_data_groups(held[0])[0])
    return len(held) * config.pool.num_experts // grid.pool_parallel_size, replicas


def _partition(numel: int, num_ranks: int) -> int:
    """Elements of a parameter group that ZeRO leaves each of ``num_ranks``, padding included."""
    return -(-numel // (_ALIGNMENT * num_ranks)) * _ALIGNMENT
