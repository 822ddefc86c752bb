"""One training step: micro-batches through the schedule, gradients together, the optimizer once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.config.plan import Plan
from unipool_dist.engine.callback import SILENT, Callback
from unipool_dist.engine.gradients import GradientBuffers
from unipool_dist.engine.optim.pooled import PooledOptimizer
from unipool_dist.engine.pipeline import Pipeline, StageBatch
from unipool_dist.errors import NonFiniteError
from unipool_dist.model.assembly import PooledModel
from unipool_dist.pool.bias import move_biases
from unipool_dist.schedule.registry import training_schedule


@dataclass(frozen=True)
class StepResult:
    """The measurements of one step; the same on every rank."""

    loss: float  # mean token loss over the global batch, nats
    aux_loss: float  # auxiliary loss, mean over micro-batches and data ranks
    grad_norm: float  # before clipping
    lr: float
    num_loss_tokens: int
    assignments: Tensor  # int64 [L, M] over all ranks


class TrainStep:
    """The training step of one rank."""

    def __init__(self, plan: Plan, groups: ParallelGroups, model: PooledModel, callback: Callback = SILENT) -> None:
        self._pools, self._bias_rate = plan.pools, plan.pool.balance.bias_rate
        self._groups, self._model, self._doing = groups, model, callback.doing
        self._plan = plan
        counts = {plan.at(stage.first_step).num_microbatches for stage in plan.stages.each}
        self._schedules = {m: training_schedule(plan.parallel.schedule, plan.parallel.pp, m) for m in counts}
        self._gradients = GradientBuffers(model)
        self.optimizer = PooledOptimizer(plan, groups, model)
        self.pipeline = Pipeline(plan, groups, model, callback)

    def run(self, step: int, batches: Sequence[StageBatch]) -> StepResult:
        """Train on ``batches``, this rank's micro-batches of step ``step``, as many as its stage has.

        The loss is the mean over all tokens that count; with ``data.reset_at_documents`` the first of a document do
        not. The auxiliary loss and the statistics of routing are of all tokens.

        Collectives over the world, in this order: number of tokens; the schedule's; losses; gradients and their norm;
        the optimizer's; assignment counts.

        Raises:
            NonFiniteError: on every rank, before any weight changes, if the loss or the gradient norm is not finite.
        """
        batches = [batch.within_documents(self._plan.document_end) for batch in batches]
        self._doing("counting tokens")
        num_loss_tokens = self._count_tokens(batches)
        self._gradients.zero()
        plan = self._plan.at(step)
        schedule = self._schedules[plan.num_microbatches]
        losses = self.pipeline.train(schedule, batches, plan, num_loss_tokens=num_loss_tokens)
        loss, aux_loss = self._sum_losses(*losses, step)
        self._doing("reducing gradients")
        self._gradients.sum_over_tensor_parallel(self._groups.tp)
        self._model.tied.sum_gradients()
        grad_norm = self.optimizer.reduce_gradients()
        if not math.isfinite(grad_norm):
            raise NonFiniteError(_explain("gradient norm", grad_norm, step))
        self._doing("updating weights")
        lr = self.optimizer.step(grad_norm)
        assignments = self._model.balance.end_step()
        move_biases(self._model.router_biases(), assignments, self._pools, self._bias_rate)
        return StepResult(loss, aux_loss, grad_norm, lr, num_loss_tokens, assignments)

    def _count_tokens(self, batches: Sequence[StageBatch]) -> int:
        count = torch.zeros((), dtype=torch.int64, device=self._groups.device)
        if self._counts:
            for batch in batches:
                assert batch.loss_mask is not None
                count += batch.loss_mask.sum().to(torch.int64)
        dist.all_reduce(count, group=self._groups.world)
        return max(int(count), 1)

    def _sum_losses(self, loss: Tensor, aux_loss: Tensor, step: int) -> tuple[float, float]:
        if not self._counts:
            loss = torch.zeros_like(loss)  # tensor-parallel ranks of the last stage all have the same loss
        both = torch.stack([loss, aux_loss]).double()
        dist.all_reduce(both, group=self._groups.world)
        total, aux = both.tolist()
        if not math.isfinite(total + aux):
            name, value = ("auxiliary loss", aux) if math.isfinite(total) else ("loss", total)
            raise NonFiniteError(_explain(name, value, step))
        return total, aux

    @property
    def _counts(self) -> bool:
        """Whether this rank represents its data-parallel index when losses and tokens are summed."""
        return self._groups.is_last_stage and self._groups.tp_index == 0


def _explain(name: str, value: float, step: int) -> str:
    return (
        f"the {name} of step {step} is {value}; no weight was changed by this step. Lower optimizer.lr, lengthen "
        f"optimizer.warmup_steps, or look at the data of this step"
    )
