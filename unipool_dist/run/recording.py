"""What rank 0 records and shows of a run: callbacks that write to sinks and to the console."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from unipool_dist.base.console import say
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.stopping import Stop
from unipool_dist.base.system_errors import explained
from unipool_dist.config.describe import describe_change
from unipool_dist.config.plan import Plan
from unipool_dist.data import Corpus
from unipool_dist.data.corpora import Corpora
from unipool_dist.engine.callback import Callback, Record, RunInfo, SaveReport
from unipool_dist.errors import UnipoolError
from unipool_dist.observe.lines import checkpoint_line, train_line, validation_line
from unipool_dist.observe.metrics import MetricsWriter
from unipool_dist.observe.sink import SINKS, Sink, SinkStart
from unipool_dist.observe.usage import spread_over_pools, summarize


def open_sinks(start: SinkStart) -> list[Sink]:
    """Open what the configuration names: metrics.jsonl always, then TensorBoard and ``log.sinks``."""
    log = start.config.log
    names = (["tensorboard"] if log.tensorboard and "tensorboard" not in log.sinks else []) + log.sinks
    return [MetricsWriter.open(start), *(SINKS[name].open(start) for name in names)]


class Recording(Callback):
    """Hands the numbers of a run to sinks. Of a dense model, where nothing is chosen, expert usage is left out."""

    def __init__(self, plan: Plan, corpora: Corpora, sinks: Sequence[Sink]) -> None:
        self._plan, self._corpora, self._sinks = plan, corpora, sinks
        self._is_dense = plan.pool.router == "none"
        self._num_pools = plan.pools.num_pools

    def extend_record(self, record: dict[str, float | int], assignments: Tensor) -> None:
        if len(self._plan.stages.each) > 1:
            record["stage_from_step"] = self._plan.stages.at(int(record["step"])).first_step
        if self._is_dense:
            return
        usage = summarize(spread_over_pools(assignments.numpy(), self._num_pools), self._num_pools)
        record |= {
            "dead_expert_share": usage.dead_share,
            "busiest_expert_over_mean": usage.busiest_over_mean,
            "effective_experts": float(usage.effective_experts_L.mean()),
            "ownership": usage.ownership,
        }

    def record(self, record: Record, assignments: Tensor) -> None:
        for sink in self._sinks:
            sink.train(record)
            if not self._is_dense:
                counts = spread_over_pools(assignments.numpy(), self._num_pools)
                sink.usage(int(record["step"]), counts, self._num_pools)

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        bits = bits_per_byte(self._corpora.at(step), losses)
        for sink in self._sinks:
            sink.validation(step, losses, bits)

    def save_done(self, report: SaveReport) -> None:
        if report.error is None:
            numbers = {"stall_s": report.stall_s, "write_s": report.write_s, "bytes": report.num_bytes}
            for sink in self._sinks:
                sink.checkpoint(report.step, numbers)

    def run_ends(self, step: int, stop: Stop | None) -> None:
        self._close()

    def run_fails(self, error: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        for sink in self._sinks:
            sink.close()


class Console(Callback):
    """Prints a line for each record, validation and checkpoint; draws the figures of a finished run.

    Added after :class:`Recording`, whose files the figures are drawn from.
    """

    def __init__(self, corpora: Corpora) -> None:
        self._corpora = corpora

    def run_begins(self, run: RunInfo) -> None:
        self._plan, self._dir = run.plan, run.run_dir
        self._steps = run.plan.train.steps

    def step_begins(self, step: int) -> None:
        if step > 1 and self._plan.stages.at(step).first_step == step:
            say(f"stage from step {step}: {describe_change(self._plan, step)}")

    def record(self, record: Record, assignments: Tensor) -> None:
        say(train_line(record, self._steps, maxima=self._plan.log.interval > 1))

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        corpus = self._corpora.at(step)
        bits = bits_per_byte(corpus, losses)
        for name, loss in losses.items():
            entropy = corpus.domains[name].unigram_entropy
            say(validation_line(step, self._steps, name, loss, bits[name], entropy))

    def save_done(self, report: SaveReport) -> None:
        if report.error is not None:
            say(f"warning: no checkpoint of step {report.step}: {report.error}", err=True)
            return
        if report.warning is not None:
            say(f"warning: {report.warning}", err=True)
        say(checkpoint_line(report.step, self._steps, report.num_bytes, report.write_s, report.stall_s))

    def run_ends(self, step: int, stop: Stop | None) -> None:
        """Draw the figures and say where everything is. A run without figures is finished all the same."""
        if stop is not None:
            return
        from unipool_dist.observe.run_figures import write_figures  # takes a while to load, and is not needed before

        try:
            figures = write_figures(self._dir)
        except (OSError, UnipoolError) as error:
            sentence = explained(error) if isinstance(error, OSError) else None
            say(f"warning: the figures of the run could not be drawn: {sentence or error}", err=True)
            figures = {}
        say(f"\nThe run is in {self._dir}:")
        for name, label in (("loss_curve", "loss curve"), ("expert_usage", "expert usage")):
            if name in figures:
                say(f"  {label:<12}  {figures[name]}")
        say(f"  metrics       {RunDirectory(self._dir).metrics}")
        if self._plan.log.tensorboard:
            say(f"  TensorBoard   tensorboard --logdir {RunDirectory(self._dir).tensorboard}")


def bits_per_byte(corpus: Corpus, losses: Mapping[str, float]) -> dict[str, float]:
    """Convert the losses of domains, in nats per token, to bits per byte of their text."""
    domains = corpus.domains
    return {
        name: loss / math.log(2) * domains[name].validation_tokens / domains[name].validation_bytes
        for name, loss in losses.items()
    }
