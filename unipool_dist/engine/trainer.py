"""The training loop: steps, evaluations, records, and the callbacks that are called on the way."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist

from unipool_dist.base.stopping import Stop
from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.config.plan import Plan
from unipool_dist.engine.callback import SILENT, Callback
from unipool_dist.engine.evaluate import Evaluation, Sequences
from unipool_dist.engine.pipeline import StageBatch
from unipool_dist.engine.step import StepResult, TrainStep
from unipool_dist.engine.window import Window
from unipool_dist.model.assembly import PooledModel

GetBatch = Callable[[int, int], StageBatch]
"""``(consumed_samples, microbatch) -> this rank's micro-batch``."""
GetValidation = Callable[[int], Mapping[str, Sequences]]
"""``step -> sequences by domain``, the same on every rank; those of the step's stage, or none."""


class Trainer:
    """Trains ``model`` for ``train.steps`` steps.

    Args:
        callback: called at the moments of :class:`~unipool_dist.engine.callback.Callback` between the first step and
            the last; beginning and end of the run are its owner's.
    """

    def __init__(
        self,
        plan: Plan,
        groups: ParallelGroups,
        model: PooledModel,
        get_batch: GetBatch,
        validation: GetValidation,
        callback: Callback = SILENT,
    ) -> None:
        self._plan, self._groups, self._model = plan, groups, model
        self._get_batch, self._validation, self._callback = get_batch, validation, callback
        self.step = TrainStep(plan, groups, model, callback)
        self._evaluation = Evaluation(plan, groups, self.step.pipeline, callback)
        self._clock = _Clock()
        self._window = Window()
        self.last_step = 0
        """The last that is done."""

    def run(self, *, first_step: int = 1) -> Stop | None:
        """Train from ``first_step`` to the end, or until a callback says stop; return its answer, else ``None``.

        Evaluates every ``train.eval_interval`` steps and after the last; on a stop, only after the last. Every step is
        in one record: records are made every ``log.interval`` steps, after the last, and on a stop.

        Raises:
            NonFiniteError: on every rank, if a step's loss or gradient norm is not finite.
        """
        self.last_step = first_step - 1
        self._clock.start()
        for step in range(first_step, self._plan.train.steps + 1):
            result = self._train(step)
            self.last_step = step
            last = step == self._plan.train.steps
            self._callback.doing("agreeing whether to stop")
            stop = self._callback.should_stop()
            if step % self._plan.log.interval == 0 or last or stop:
                self._callback.doing("reporting")
                self._report(step, result.lr)
            with self._clock.stopped():
                self._evaluate(step, last=last, stopping=stop is not None)
            self._callback.doing("saving", slow=True)
            self._callback.step_ends(step, closing=last or stop is not None)
            if stop and not last:
                return stop
        return None

    def _train(self, step: int) -> StepResult:
        plan, consumed = self._plan.at(step), self._plan.stages.samples(step - 1)
        self._callback.doing("beginning", step=step)
        self._callback.step_begins(step)
        batches = [self._read(consumed, i) for i in range(plan.num_microbatches)]
        self._model.exchange.reset_traffic()
        result = self.step.run(step, batches)
        self._clock.add(plan.tokens_per_step)
        self._window.add(result)
        self._callback.step_done(step, result)
        return result

    def _evaluate(self, step: int, *, last: bool, stopping: bool) -> None:
        interval = self._plan.train.eval_interval
        due = interval > 0 and step % interval == 0 and not stopping
        # After the last step even on a stop: no resumed run would make up for it.
        domains = self._validation(step) if due or last else {}
        if domains:
            losses = self._evaluation.run(domains, rows=self._plan.stages.at(step).train.micro_batch_size)
            if self._groups.rank == 0:
                self._callback.validation(step, losses)

    def _report(self, step: int, lr: float) -> None:
        """Hand the record of the steps since the last one to the callbacks, on rank 0. Collectives: _record's."""
        window, self._window = self._window, Window()
        record = self._record(step, lr, window, *self._clock.lap())
        if self._groups.rank == 0:
            assignments = window.assignments.cpu()
            self._callback.extend_record(record, assignments)
            self._callback.record(record, assignments)

    def _read(self, consumed_samples: int, microbatch: int) -> StageBatch:
        self._callback.doing(f"reading micro-batch {microbatch}")
        return self._get_batch(consumed_samples, microbatch)

    def _record(
        self, step: int, lr: float, window: Window, tokens_per_s: float, step_time_s: float
    ) -> dict[str, float | int]:
        """Return the record of the steps up to ``step``; ``lr`` and the imbalance are those of the last of them.

        Collectives: one all-reduce over the world; then one over the pool group and one over the world.
        """
        memory = torch.tensor(_peak_memory_bytes(self._groups.device), dtype=torch.int64, device=self._groups.device)
        dist.all_reduce(memory, op=dist.ReduceOp.MAX, group=self._groups.world)
        imbalance = self._rank_imbalance()
        return {
            "step": step,
            **window.numbers(),
            "lr": lr,
            "tokens": self._plan.stages.tokens(step),
            "tokens_per_s": tokens_per_s,
            "step_time_s": step_time_s,
            "memory_bytes": int(memory),
            "busiest_rank_over_mean": imbalance,
        }

    def _rank_imbalance(self) -> float:
        """Return rows on the busiest rank of a pool group over the mean rank's, over this step's forward exchanges.

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


class _Clock:
    """Speed since the last report. Evaluation does not count as training time; waiting for a checkpoint does."""

    def __init__(self) -> None:
        self._steps, self._tokens = 0, 0
        self.start()

    def add(self, tokens: int) -> None:
        """Count a step of ``tokens`` tokens."""
        self._steps, self._tokens = self._steps + 1, self._tokens + tokens

    def lap(self) -> tuple[float, float]:
        """Return tokens per second and seconds per step, and start again."""
        seconds, steps, tokens = time.perf_counter() - self._started, self._steps, self._tokens
        self.start()
        return tokens / seconds, seconds / steps

    def start(self) -> None:
        """Start from now."""
        self._started, self._steps, self._tokens = time.perf_counter(), 0, 0

    @contextmanager
    def stopped(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._started += time.perf_counter() - started


def _peak_memory_bytes(device: torch.device) -> int:
    """Most memory this process has held: on its GPU, or resident where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
