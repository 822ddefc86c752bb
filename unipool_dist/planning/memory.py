"""Bytes that every rank holds from its first step to its last: weights, gradients, and optimizer states under ZeRO.

Not counted: routers' biases (M numbers for each layer), activations, what experts keep for backward, and what is there
only during the update, which is the reduced gradient and the buckets (ds_configs/README.md).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from unipool_dist.config.plan import Plan
from unipool_dist.config.sections import OptimizerSection
from unipool_dist.layout.rank_grid import RankGrid
from unipool_dist.model.families import inventory
from unipool_dist.planning.parameters import expert_parameters

_WEIGHT_BYTES = {"fp32": 4, "bf16": 2}
_FP32_BYTES = 4
_ALIGNMENT = 2
"""DeepSpeed makes the elements of a rank's partition a multiple of this."""


@dataclass(frozen=True)
class RankMemory:
    """What one rank holds."""

    dense_parameters: int
    """Everything but the experts; on a last stage apart from the first, its copy of tied weights too."""
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


def rank_kinds(plan: Plan) -> list[RankKind]:
    """List the kinds of ranks in the layout of ``plan``, by their first stage."""
    grid, sharded = plan.grid, plan.zero.stage == 1
    experts = _experts(plan)
    of_stages = [
        (len(layers), stage == 0, stage == grid.pp - 1, *experts[stage // grid.stages_per_group])
        for stage, layers in enumerate(grid.layers_of_stage(plan.model.num_layers))
    ]
    held = {of_stage: _held(plan, grid, *of_stage, sharded=sharded) for of_stage in dict.fromkeys(of_stages)}
    alike: dict[RankMemory, list[int]] = defaultdict(list)
    for stage, of_stage in enumerate(of_stages):
        alike[held[of_stage]].append(stage)
    return [RankKind(tuple(stages), len(stages) * grid.dp * grid.tp, each) for each, stages in alike.items()]


@dataclass(frozen=True)
class _Group:
    """What parameters of one group of the optimizer have in common; copies of tied weights are in none."""

    is_fp32: bool
    is_split: bool
    """Over tensor parallelism."""
    decays: bool
    lr_scale: float
    is_copy: bool


def num_moments(optimizer: OptimizerSection) -> int:
    """Return how many tensors the optimizer keeps for each parameter besides the master.

    Of a user's own, which nothing is known of, as many as of adamw.
    """
    return int(optimizer.momentum > 0) if optimizer.name == "sgd" else 2


def _held(
    plan: Plan,
    grid: RankGrid,
    num_layers: int,
    is_first: bool,
    is_last: bool,
    num_experts: int,
    replicas: int,
    *,
    sharded: bool,
) -> RankMemory:
    """Compute what a rank holds of a stage; ``replicas`` ranks hold the same ``num_experts`` experts."""
    groups = _dense_groups(plan, grid, num_layers, is_first=is_first, is_last=is_last)
    experts = num_experts * expert_parameters(plan)
    dense = sum(groups.values())
    fp32_dense = sum(numel for group, numel in groups.items() if group.is_fp32)
    states = sum(_partition(n, grid.dp if sharded else 1) for group, n in groups.items() if not group.is_copy)
    states += _partition(experts, replicas if sharded else 1)
    return RankMemory(
        dense_parameters=dense,
        expert_parameters=experts,
        weight_bytes=_FP32_BYTES * fp32_dense + _WEIGHT_BYTES[plan.train.dtype] * (dense - fp32_dense + experts),
        gradient_bytes=_FP32_BYTES * (dense + experts),
        master_bytes=_FP32_BYTES * states,
        moment_bytes=_FP32_BYTES * states * num_moments(plan.optimizer),
    )


def _dense_groups(plan: Plan, grid: RankGrid, num_layers: int, *, is_first: bool, is_last: bool) -> dict[_Group, int]:
    """Count the elements that a rank of the stage has of each parameter group but the experts'."""
    tensors = inventory(plan)
    groups: dict[_Group, int] = defaultdict(int)
    for spec, count in tensors.counted_of_stage(num_layers, is_first=is_first, is_last=is_last):
        if spec.trained:
            group = _Group(
                is_fp32=plan.train.dtype == "fp32" or spec.dtype == "fp32",
                is_split=spec.tp_dim is not None,
                decays=spec.decays,
                lr_scale=plan.optimizer.router_lr_scale if spec.lr_group == "router" else 1.0,
                is_copy=spec in tensors.tied and not is_first,
            )
            groups[group] += count * (spec.numel // grid.tp if group.is_split else spec.numel)
    return groups


def _experts(plan: Plan) -> list[tuple[int, int]]:
    """Return for every stage group the experts on each of its ranks, and how many ranks hold the same ones."""
    grid = plan.grid
    spans = grid.pool_spans(plan.pools)
    num_pools = [0] * grid.num_stage_groups
    replicas = [0] * grid.num_stage_groups
    for first, last in spans:
        for group in range(first, last + 1):
            num_pools[group] += 1
            replicas[group] = (last - first + 1) * grid.dp * grid.tp // grid.block_size
    each = plan.pool.num_experts // grid.pool_parallel_size
    return [(count * each, copies) for count, copies in zip(num_pools, replicas, strict=True)]


def _partition(numel: int, num_ranks: int) -> int:
    """Return the elements of a parameter group that ZeRO leaves each of ``num_ranks``, padding included."""
    return -(-numel // (_ALIGNMENT * num_ranks)) * _ALIGNMENT
