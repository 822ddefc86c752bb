"""A callback and a sink of one's own, given to a run by name.

From this folder (or submitted, then this file is frozen with the job):

    unipool-dist train configs/small.yaml --nproc 4 \\
        log.callbacks=[own_callback:StopWhenGood] log.sinks=[own_callback:Csv]
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Self

import unipool_dist as up
from unipool_dist.engine.step import StepResult
from unipool_dist.observe.sink import Numbers, SinkStart


class StopWhenGood(up.Callback):
    """Stops the run, with its state saved, once the loss is below ``GOOD``."""

    GOOD = 4.0
    _loss = float("inf")

    def step_done(self, step: int, result: StepResult) -> None:
        self._loss = result.loss  # the same on every rank, so that all return the same below

    def should_stop(self) -> up.Stop | None:
        return up.stop(f"the loss is below {self.GOOD}") if self._loss < self.GOOD else None


class Csv(up.Sink):
    """Writes step and loss to RUN/loss.csv; sinks live on rank 0 alone."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="")
        self._rows = csv.writer(self._file)

    @classmethod
    def open(cls, start: SinkStart) -> Self:
        return cls(start.run_dir / "loss.csv")

    def train(self, record: Numbers) -> None:
        self._rows.writerow((record["step"], record["loss"]))

    def close(self) -> None:
        self._file.close()
