"""A trace of some steps by torch.profiler, which https://ui.perfetto.dev and chrome://tracing open."""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.config.fields import step_range
from unipool_dist.engine.callback import Callback, RunInfo


class Tracing(Callback):
    """Writes ``RUN/profile/steps-A-B-rank-R.json`` for ``log.profile_steps: A-B``, on each of ``log.profile_ranks``.

    Attention, exchanges and experts appear under these names. The steps of the window are slower than others. A run
    that ends within it writes what it has.
    """

    def run_begins(self, run: RunInfo) -> None:
        self._profiler: profile | None = None
        steps = run.plan.log.profile_steps
        self._first, self._last = step_range(steps) if steps is not None else (0, 0)
        if run.groups.rank not in run.plan.log.profile_ranks:
            self._first = 0  # no step
        self._file = RunDirectory(run.run_dir).profile / f"steps-{self._first}-{self._last}-rank-{run.groups.rank}.json"
        self._activities = [ProfilerActivity.CPU]
        if run.groups.device.type == "cuda":
            self._activities.append(ProfilerActivity.CUDA)

    def step_begins(self, step: int) -> None:
        if self._first <= step <= self._last and self._first and self._profiler is None:
            self._profiler = profile(activities=self._activities)
            self._profiler.start()

    def step_ends(self, step: int, *, closing: bool) -> None:
        if self._profiler is not None and (step >= self._last or closing):
            self._write()

    def run_fails(self, error: BaseException) -> None:
        if self._profiler is not None:
            self._write()

    def _write(self) -> None:
        profiler, self._profiler = self._profiler, None
        assert profiler is not None
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # within the window only: kernels of the last step are to be in the trace
        profiler.stop()
        self._file.parent.mkdir(exist_ok=True)
        profiler.export_chrome_trace(str(self._file))
