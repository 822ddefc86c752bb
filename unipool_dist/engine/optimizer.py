"""The optimizer of one rank: ZeRO for dense parameters, routers and experts, one schedule, one gradient norm."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from unipool_dist.config.plan import Plan
from unipool_dist.engine.zero import ZeroOptimizer, initialize_deepspeed
from unipool_dist.engine.zero_state import StateShard
from unipool_dist.model.assembly import PooledModel
from unipool_dist.topology.groups import ParallelGroups
from unipool_dist.topology.megatron import OptimizerParamScheduler

logging.getLogger("megatron.core.optimizer_param_scheduler").setLevel(logging.WARNING)


@dataclass
class _AllParamGroups:
    """What Megatron's scheduler needs of an optimizer."""

    param_groups: list[dict[str, Any]]


class PooledOptimizer:
    """All of one rank's optimizers, stepped together.

    Dense parameters (in the run's type) and routers (always fp32) are sharded over the data-parallel group, experts
    over the expert-data-parallel group. Norms, biases and other vectors have no weight decay. The learning rate of the
    routers is ``optimizer.router_lr_scale`` times that of all others, from the first step to the last.

    Collectives: every method that communicates does so for dense parameters first, then routers, then experts.
    """

    def __init__(self, plan: Plan, groups: ParallelGroups, model: PooledModel) -> None:
        initialize_deepspeed()
        settings, zero = plan.optimizer, plan.zero
        self._world, self._tied = groups.world, model.tied
        dense = list(model.named_dense_parameters())
        self._optimizers = [
            ZeroOptimizer(members, groups.dp, settings, zero, count_replicated=groups.tp_index == 0)
            for dtype in dict.fromkeys([model.dtype, torch.float32])
            if (members := [(name, parameter) for name, parameter in dense if parameter.dtype == dtype])
        ]
        experts = list(model.named_expert_parameters())
        self._optimizers.append(ZeroOptimizer(experts, groups.expert_data, settings, zero, count_replicated=True))
        every_group = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        self._scheduler = OptimizerParamScheduler(
            _AllParamGroups(every_group),
            init_lr=0.0,
            max_lr=settings.lr,
            min_lr=settings.min_lr,
            lr_warmup_steps=settings.warmup_steps,
            lr_decay_steps=max(plan.train.steps, settings.warmup_steps + 1),
            lr_decay_style=settings.decay,
            start_wd=settings.weight_decay,
            end_wd=settings.weight_decay,
            wd_incr_steps=0,
            wd_incr_style="constant",
        )
        self._clip_grad = settings.clip_grad
        self._step_pre_hooks: list[Callable[[], None]] = []

    def register_step_pre_hook(self, hook: Callable[[], None]) -> None:
        """Have ``hook`` called at the begin of every ``step``, before anything of the state changes."""
        self._step_pre_hooks.append(hook)

    def reduce_gradients(self) -> float:
        """Sum gradients over replicas; return their global norm, every parameter counted once.

        Collectives: reductions over the data-parallel and expert-data-parallel groups, then one all-reduce over the
        world.
        """
        for optimizer in self._optimizers:
            optimizer.reduce_gradients()
        squared = sum(optimizer.squared_norm() for optimizer in self._optimizers)
        assert isinstance(squared, torch.Tensor)
        dist.all_reduce(squared, group=self._world)
        return float(squared.sqrt())

    def step(self, grad_norm: float) -> float:
        """Clip to ``optimizer.clip_grad``, advance the schedule, update all parameters; return the learning rate of all
        but the routers.

        Collectives: all-gathers over the data-parallel and expert-data-parallel groups; then those of
        :meth:`TiedWeights.share`.
        """
        for hook in self._step_pre_hooks:
            hook()
        if 0 < self._clip_grad < grad_norm:
            for optimizer in self._optimizers:
                optimizer.scale_gradients(self._clip_grad / grad_norm)
        self._scheduler.step(increment=1)
        for optimizer in self._optimizers:
            optimizer.step()
        self._tied.share()
        return float(self._scheduler.get_lr({}))  # of a group without a schedule of its own

    def dense_shards(self) -> list[StateShard]:
        """Masters and states of the dense parameters and routers that are on this rank."""
        return [shard for optimizer in self._optimizers[:-1] for shard in optimizer.state_shards()]

    def expert_shards(self) -> list[StateShard]:
        """Masters and states of the experts that are on this rank; names and shapes are those of the expert bank."""
        return self._optimizers[-1].state_shards()

    @property
    def num_steps(self) -> int:
        """Steps taken, where the learning-rate schedule stands."""
        return int(self._scheduler.num_steps)

    def finish_loading(self, steps: int) -> None:
        """Call once all shards were written into: sets counts of steps, schedule, and parameters from their masters.

        Collectives: all-gathers over the data-parallel and expert-data-parallel groups; then those of
        :meth:`TiedWeights.share`.
        """
        for optimizer in self._optimizers:
            optimizer.finish_loading(steps)
        self._tied.share()
        self._scheduler.num_steps = 0
        self._scheduler.step(increment=steps)

    def close(self) -> None:
        """Let go of the parameters, before the groups are left, in a process that goes on to something else."""
        for optimizer in self._optimizers:
            optimizer.close()
