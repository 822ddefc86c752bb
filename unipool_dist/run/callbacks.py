"""Callbacks that every run has: its heartbeat, and the reasons to stop."""

from __future__ import annotations

import time

from unipool_dist.base.registry import Registry
from unipool_dist.base.stopping import Stop
from unipool_dist.engine.callback import Callback, RunInfo, SaveReport
from unipool_dist.resilience.deadline import Deadline
from unipool_dist.resilience.stop import StopRequest
from unipool_dist.run.heartbeat import HeartbeatWriter
from unipool_dist.run.state import RunState

CALLBACKS: Registry[type[Callback]] = Registry("log.callbacks", {}, base=Callback)
"""A user's own, each made without arguments on every rank."""


class Heartbeat(Callback):
    """Writes ``heartbeat.json`` after each step; on rank 0, which holds the lock of the run."""

    def run_begins(self, run: RunInfo) -> None:
        self._writer = HeartbeatWriter(run.run_dir, steps=run.plan.train.steps, resumed_from=run.resumed_from)

    def step_done(self, step: int, result: object) -> None:
        self._writer.write(step)

    def run_ends(self, step: int, stop: Stop | None) -> None:
        self._writer.write(step, RunState.FINISHED if stop is None else RunState.STOPPED, stop)
        self._writer.close()


class Stopping(Callback):
    """Asks all ranks for a reason to stop, and tells the deadline how long steps and saves take.

    Collectives of ``should_stop``: one all-reduce over the world.
    """

    def __init__(self, request: StopRequest, deadline: Deadline) -> None:
        self._request, self._deadline = request, deadline
        self._asked_at: float | None = None

    def should_stop(self) -> Stop | None:
        now = time.monotonic()
        if self._asked_at is not None:
            self._deadline.observe_step(now - self._asked_at)
        self._asked_at = now
        return self._request.poll()

    def save_done(self, report: SaveReport) -> None:
        if report.error is None:  # one that failed may have been quick
            self._deadline.observe_save(max(report.stall_s, report.write_s))
