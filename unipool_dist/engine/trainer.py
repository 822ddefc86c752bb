"""The training loop: steps, evaluations, and what an observer is told of them."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.config import Config
from unipool_dist.engine.evaluate import Evaluation, Sequences
from unipool_dist.engine.pipeline import StageBatch
from unipool_dist.engine.step import StepResult, TrainStep
from unipool_dist.model.assembly import PooledModel
from unipool_dist.topology.groups import ParallelGroups


class Observer(Protocol):
    """Told of a run's progress, on rank 0 only."""

    def train(self, record: Mapping[str, float | int], assignments: Tensor) -> None:
        """One logged step; ``assignments`` are those of that step, int64 [L, M]."""

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        """Mean token loss of every domain, nats."""


GetBatch = Callable[[int, int], StageBatch]
"""``(consumed_samples, microbatch) -> this rank's micro-batch``."""


class Trainer:
    """Trains ``model`` for ``train.steps`` steps.

    Args:
        observer: on rank 0, else ``None``.
        validation: sequences by domain, the same on every rank; may be empty.
    """

    def __init__(
        self,
        config: Config,
        groups: ParallelGroups,
        model: PooledModel,
        get_batch: GetBatch,
        validation: Mapping[str, Sequences],
        observer: Observer | None,
    ) -> None:
        self._config, self._groups, self._model = config, groups, model
        self._get_batch, self._validation, self._observer = get_batch, validation, observer
        self.step = TrainStep(config, groups, model)
        self._evaluation = Evaluation(config, groups, self.step.pipeline)

    def run(self) -> None:
        """Train to the end; evaluate every ``train.eval_interval`` steps and after the last.

        Raises:
            NonFiniteError: on every rank, if a step's loss or gradient norm is not finite.
        """
        train, log = self._config.train, self._config.log
        tokens_per_step = train.global_batch_size * self._config.model.sequence_length
        started, steps_since = time.perf_counter(), 0
        for step in range(1, train.steps + 1):
            consumed = (step - 1) * train.global_batch_size
            batches = [self._get_batch(consumed, i) for i in range(self.step.num_microbatches)]
            self._model.exchange.reset_traffic()
            result = self.step.run(step, batches)
            steps_since += 1
            last = step == train.steps
            if step % log.interval == 0 or last:
                seconds = time.perf_counter() - started
                self._report(step, result, steps_since * tokens_per_step / seconds, seconds / steps_since)
                started, steps_since = time.perf_counter(), 0
            if self._validation and (last or (train.eval_interval and step % train.eval_interval == 0)):
                evaluation_started = time.perf_counter()
                losses = self._evaluation.run(self._validation)
                if self._observer is not None:
                    self._observer.validation(step, losses)
                started += time.perf_counter() - evaluation_started  # evaluation is no training time

    def _report(self, step: int, result: StepResult, tokens_per_s: float, step_time_s: float) -> None:
        """Collectives: one all-reduce over the world; then one over the pool group and one over the world."""
        memory = torch.tensor(_peak_memory_bytes(self._groups.device), dtype=torch.int64, device=self._groups.device)
        dist.all_reduce(memory, op=dist.ReduceOp.MAX, group=self._groups.world)
        imbalance = self._rank_imbalance()
        if self._observer is None:
            return
        tokens = step * self._config.train.global_batch_size * self._config.model.sequence_length
        record = {
            "step": step,
            "loss": result.loss,
            "aux_loss": result.aux_loss,
            "grad_norm": result.grad_norm,
            "lr": result.lr,
            "tokens": tokens,
            "tokens_per_s": tokens_per_s,
            "step_time_s": step_time_s,
            "memory_bytes": int(memory),
            "busiest_rank_over_mean": imbalance,
        }
        self._observer.train(record, result.assignments)

    def _rank_imbalance(self) -> float:
        """Rows on the busiest rank of a pool group over the mean rank's, summed over this step's forward exchanges.

        All ranks of a pool group wait for the busiest in every exchange, so this is expert time over that under
        perfect balance.
        """
        most = torch.tensor(self._model.exchange.traffic.rows_computed, dtype=torch.float64, device=self._groups.device)
        mean = most / self._groups.pool.size()
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=self._groups.pool)
        sums = torch.stack([most.sum() / self._groups.pool.size(), mean.sum()])
        dist.all_reduce(sums, group=self._groups.world)
        busiest, average = sums.tolist()
        return busiest / average if average else 1.0


def _peak_memory_bytes(device: torch.device) -> int:
    """Most memory this process has held: on its GPU, or resident where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
