"""What rank 0 shows and records of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from unipool_dist.base.console import say
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.system_errors import explained
from unipool_dist.checkpoint.saver import SaveReport
from unipool_dist.config.plan import Plan
from unipool_dist.data import Corpus
from unipool_dist.errors import UnipoolError
from unipool_dist.observe import MetricsWriter
from unipool_dist.observe.console import checkpoint_line, train_line, validation_line
from unipool_dist.observe.usage import spread_over_pools, summarize


class RunObserver:
    """Console lines, metrics.jsonl, TensorBoard and expert usage of one run; figures at the end.

    Of a dense model, where nothing is chosen, no expert usage is recorded.
    """

    def __init__(self, plan: Plan, corpus: Corpus, resume_from_step: int | None = None) -> None:
        self._plan, self._corpus = plan, corpus
        self._dir = Path(plan.run.dir)
        self._num_pools = plan.pools.num_pools
        self._writer = MetricsWriter(self._dir, tensorboard=plan.log.tensorboard, resume_from_step=resume_from_step)

    def train(self, record: Mapping[str, float | int], assignments: torch.Tensor) -> None:
        if self._plan.pool.router == "none":
            self._writer.train(record)
        else:
            counts = spread_over_pools(assignments.cpu().numpy(), self._num_pools)
            usage = summarize(counts, self._num_pools)
            numbers = {
                "dead_expert_share": usage.dead_share,
                "busiest_expert_over_mean": usage.busiest_over_mean,
                "effective_experts": float(usage.effective_experts_L.mean()),
                "ownership": usage.ownership,
            }
            self._writer.train({**record, **numbers})
            self._writer.usage(int(record["step"]), counts, self._num_pools)
        say(train_line(record, self._plan.train.steps, maxima=self._plan.log.interval > 1))

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        domains = self._corpus.domains
        bits = {
            name: loss / math.log(2) * domains[name].validation_tokens / domains[name].validation_bytes
            for name, loss in losses.items()
        }
        self._writer.validation(step, losses, bits)
        for name, loss in losses.items():
            entropy = domains[name].unigram_entropy
            say(validation_line(step, self._plan.train.steps, name, loss, bits[name], entropy))

    def checkpoint(self, report: SaveReport) -> None:
        if report.error is not None:
            say(f"warning: no checkpoint of step {report.step}: {report.error}", err=True)
            return
        if report.warning is not None:
            say(f"warning: {report.warning}", err=True)
        self._writer.checkpoint(
            report.step, {"stall_s": report.stall_s, "write_s": report.write_s, "bytes": report.num_bytes}
        )
        say(checkpoint_line(report.step, self._plan.train.steps, report.num_bytes, report.write_s, report.stall_s))

    def close(self) -> None:
        self._writer.close()

    def finish(self) -> None:
        """Close the files, draw the figures and say where everything is. Without figures a run is finished all the
        same."""
        from unipool_dist.observe.report import (
            write_figures,
        )  # only rank 0 draws, and at the end: it takes a while to load

        self.close()
        try:
            figures = write_figures(self._dir)
        except (OSError, UnipoolError) as error:
            reason = explained(error) if isinstance(error, OSError) else None
            say(f"warning: the figures of the run could not be drawn: {reason or error}", err=True)
            figures = {}
        say(f"\nThe run is in {self._dir}:")
        for name, label in (("loss_curve", "loss curve"), ("expert_usage", "expert usage")):
            if name in figures:
                say(f"  {label:<12}  {figures[name]}")
        say(f"  metrics       {RunDirectory(self._dir).metrics}")
        if self._plan.log.tensorboard:
            say(f"  TensorBoard   tensorboard --logdir {RunDirectory(self._dir).tensorboard}")
