"""The optimizer of one rank: dense parameters, routers and experts, one schedule, one gradient norm."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import nn

from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.config.plan import Plan
from unipool_dist.engine.optim.schedule import LearningRates
from unipool_dist.engine.optim.sharded import OPTIMIZERS, StateShard, TrainedParameter
from unipool_dist.model.assembly import PooledModel
from unipool_dist.model.inventory import spec_of


class PooledOptimizer:
    """All of one rank's optimizers, stepped together.

    Dense parameters (in the run's type) and routers (always fp32) are sharded over the data-parallel group, experts
    over the expert-data-parallel group. Norms, biases and other vectors have no weight decay. The learning rate of the
    routers is ``optimizer.router_lr_scale`` times that of all others, from the first step to the last.

    Collectives: every method that communicates does so for dense parameters first, then routers, then experts.
    """

    def __init__(self, plan: Plan, groups: ParallelGroups, model: PooledModel) -> None:
        settings = plan.optimizer
        optimizer = OPTIMIZERS[settings.name]
        dense = _trained(
            model.named_dense_parameters(), settings.router_lr_scale, count_replicated=groups.tp_index == 0
        )
        experts = _trained(model.named_expert_parameters(), settings.router_lr_scale, count_replicated=True)
        self._optimizers = [
            optimizer(members, groups.dp, plan)
            for dtype in dict.fromkeys([model.dtype, torch.float32])
            if (members := [item for item in dense if item.parameter.dtype == dtype])
        ]
        self._optimizers.append(optimizer(experts, groups.expert_data, plan))
        self._world, self._tied = groups.world, model.tied
        self._rates = LearningRates(plan)
        self._clip_grad = settings.clip_grad
        self._change_hooks: list[Callable[[], None]] = []
        self.num_moves = 0
        """How often experts have moved: since then the shards of experts are other experts'."""

    def register_change_hook(self, hook: Callable[[], None]) -> None:
        """Have ``hook`` called before masters or states change: by every ``step``, and by ``before_change``."""
        self._change_hooks.append(hook)

    def before_change(self) -> None:
        """Call before writing into state shards, unless all of them are overwritten by a checkpoint."""
        for hook in self._change_hooks:
            hook()

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
        """Clip to ``optimizer.clip_grad``, advance the schedule, update all parameters.

        Returns the learning rate of all but the routers.

        Collectives: all-gathers over the data-parallel and expert-data-parallel groups; then those of
        :meth:`TiedWeights.share`.
        """
        self.before_change()
        if 0 < self._clip_grad < grad_norm:
            for optimizer in self._optimizers:
                optimizer.scale_gradients(self._clip_grad / grad_norm)
        self._rates.advance()
        for optimizer in self._optimizers:
            optimizer.step(self._rates.rate)
        self._tied.share()
        return self._rates.rate()

    def dense_shards(self) -> list[StateShard]:
        """Return masters and states of the dense parameters and routers that are on this rank."""
        return [shard for optimizer in self._optimizers[:-1] for shard in optimizer.state_shards()]

    def expert_shards(self) -> list[StateShard]:
        """Return masters and states of the experts that are on this rank; names and shapes are the expert bank's."""
        return self._optimizers[-1].state_shards()

    @property
    def num_steps(self) -> int:
        """Steps taken, where the learning-rate schedule is."""
        return self._rates.num_steps

    def finish_loading(self, steps: int) -> None:
        """Set counts of steps, schedule, and parameters from their masters, once all shards were written into.

        Collectives: all-gathers over the data-parallel and expert-data-parallel groups; then those of
        :meth:`TiedWeights.share`.
        """
        for optimizer in self._optimizers:
            optimizer.finish_loading(steps)
        self._tied.share()
        self._rates.go_to(steps)

    def finish_moving_experts(self) -> None:
        """Set the experts from their masters, once experts' shards were written into.

        Collectives: all-gathers over the expert-data-parallel group.
        """
        self._optimizers[-1].finish_loading(self.num_steps)
        self.num_moves += 1

    def close(self) -> None:
        """Drop references to parameters; call before destroying groups in a process that keeps running."""
        for optimizer in self._optimizers:
            optimizer.close()


def _trained(
    named_parameters: Iterable[tuple[str, nn.Parameter]], router_lr_scale: float, *, count_replicated: bool
) -> list[TrainedParameter]:
    trained = []
    for name, parameter in named_parameters:
        spec = spec_of(parameter)
        trained.append(
            TrainedParameter(
                name,
                parameter,
                is_split=spec.tp_dim is not None,
                is_counted=spec.tp_dim is not None or count_replicated,
                has_weight_decay=spec.decays,
                lr_scale=router_lr_scale if spec.lr_group == "router" else 1.0,
            )
        )
    return trained
