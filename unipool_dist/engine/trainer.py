"""The training loop: steps, evaluations, and what an observer is told of them."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.config.plan import Plan
from unipool_dist.engine.evaluate import Evaluation, Sequences
from unipool_dist.engine.pipeline import StageBatch
from unipool_dist.engine.progress import Beat, unheard
from unipool_dist.engine.step import TrainStep
from unipool_dist.engine.window import Window
from unipool_dist.model.assembly import PooledModel
from unipool_dist.topology.groups import ParallelGroups


class Observer(Protocol):
    """Told of a run's progress, on rank 0 only."""

    def train(self, record: Mapping[str, float | int], assignments: Tensor) -> None:
        """The steps since the last line; ``assignments`` are their sum, int64 [L, M]."""

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        """Mean token loss of every domain, nats."""


class Saver(Protocol):
    """Keeps the state of a run; called by all ranks alike."""

    def after_step(self, step: int, *, closing: bool) -> None:
        """``step`` is done; if the run is ``closing``, the state of this step is safe when this returns."""


GetBatch = Callable[[int, int], StageBatch]
"""``(consumed_samples, microbatch) -> this rank's micro-batch``."""


class Trainer:
    """Trains ``model`` for ``train.steps`` steps.

    Args:
        validation: sequences by domain, the same on every rank; may be empty.
        beat: told what this rank is doing, at least once per micro-batch.
    """

    def __init__(
        self,
        plan: Plan,
        groups: ParallelGroups,
        model: PooledModel,
        get_batch: GetBatch,
        validation: Mapping[str, Sequences],
        beat: Beat = unheard,
    ) -> None:
        self._plan, self._groups, self._model = plan, groups, model
        self._get_batch, self._validation, self._beat = get_batch, validation, beat
        self.step = TrainStep(plan, groups, model, beat)
        self._evaluation = Evaluation(plan, groups, self.step.pipeline)

    def run(
        self,
        *,
        first_step: int = 1,
        observer: Observer | None = None,
        saver: Saver | None = None,
        should_stop: Callable[[], str | None] = lambda: None,
    ) -> str | None:
        """Train from ``first_step`` to the end, or until it should stop; return the reason for that, else ``None``.

        Evaluates every ``train.eval_interval`` steps and after the last; when it should stop, only after the last.
        The observer hears of every step once: of those since it was told last, every ``log.interval`` steps, after the
        last, and when it should stop.

        Args:
            observer: on rank 0, else ``None``.
            saver: ``None``: nothing is saved.
            should_stop: asked after every step, by all ranks alike; a reason to save and stop now, the same on every
                rank, or ``None``.

        Raises:
            NonFiniteError: on every rank, if a step's loss or gradient norm is not finite.
        """
        train = self._plan.train
        clock = _Clock(self._plan.tokens_per_step)
        window = Window()
        for step in range(first_step, train.steps + 1):
            consumed = (step - 1) * train.global_batch_size
            self._beat("beginning", step=step)
            batches = [self._read(consumed, i) for i in range(self.step.num_microbatches)]
            self._model.exchange.reset_traffic()
            result = self.step.run(step, batches)
            clock.steps += 1
            window.add(result)
            last = step == train.steps
            self._beat("agreeing whether to stop")
            reason = should_stop()
            if step % self._plan.log.interval == 0 or last or reason:
                self._beat("reporting")
                record = self._record(step, result.lr, window, *clock.lap())
                if observer is not None:
                    observer.train(record, window.assignments)
                window = Window()
            with clock.stopped():
                due = train.eval_interval > 0 and step % train.eval_interval == 0 and not reason
                # After the last step even when stopping: no resumed run would make up for it.
                if self._validation and (due or last):
                    losses = self._evaluation.run(self._validation)
                    if observer is not None:
                        observer.validation(step, losses)
            if saver is not None:
                self._beat("saving", slow=True)
                saver.after_step(step, closing=last or reason is not None)
            if reason and not last:
                return reason
        return None

    def _read(self, consumed_samples: int, microbatch: int) -> StageBatch:
        self._beat(f"reading micro-batch {microbatch}")
        return self._get_batch(consumed_samples, microbatch)

    def _record(
        self, step: int, lr: float, window: Window, tokens_per_s: float, step_time_s: float
    ) -> dict[str, float | int]:
        """What is logged of the steps up to ``step``; ``lr`` and the imbalance are those of the last of them.

        Collectives: one all-reduce over the world; then one over the pool group and one over the world."""
        memory = torch.tensor(_peak_memory_bytes(self._groups.device), dtype=torch.int64, device=self._groups.device)
        dist.all_reduce(memory, op=dist.ReduceOp.MAX, group=self._groups.world)
        imbalance = self._rank_imbalance()
        tokens = step * self._plan.tokens_per_step
        return {
            "step": step,
            **window.numbers(),
            "lr": lr,
            "tokens": tokens,
            "tokens_per_s": tokens_per_s,
            "step_time_s": step_time_s,
            "memory_bytes": int(memory),
            "busiest_rank_over_mean": imbalance,
        }

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


class _Clock:
    """Speed since the last report. Evaluation is no training time; waiting for a checkpoint is."""

    def __init__(self, tokens_per_step: int) -> None:
        self._tokens_per_step = tokens_per_step
        self._started, self.steps = time.perf_counter(), 0

    def lap(self) -> tuple[float, float]:
        """Tokens per second, and seconds per step; begins anew."""
        seconds, steps = time.perf_counter() - self._started, self.steps
        self._started, self.steps = time.perf_counter(), 0
        return steps * self._tokens_per_step / seconds, seconds / steps

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
