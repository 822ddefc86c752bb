"""Snapshots of a GPU's memory, which https://docs.pytorch.org/memory_viz shows. CUDA only."""

from __future__ import annotations

import torch

from unipool_dist.base.console import say
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.engine.callback import Callback, RunInfo

_MAX_EVENTS = 200_000
"""Allocations that are kept with their stacks: some hundred MB of host memory at most."""


class MemorySnapshot(Callback):
    """Writes snapshots into ``RUN/gpu_memory``: after step ``log.memory_step``, and at out-of-memory.

    The allocations before a snapshot, with their stacks, are recorded only if ``log.memory_step`` is set; then each
    allocation is slower. At out-of-memory the blocks that are held are written in any case. Without a GPU nothing is
    written, and ``log.memory_step`` warns.
    """

    def run_begins(self, run: RunInfo) -> None:
        self._step, self._rank = run.plan.log.memory_step, run.groups.rank
        self._folder, self._on_gpu = RunDirectory(run.run_dir).gpu_memory, run.groups.device.type == "cuda"
        if not self._step:
            return
        if self._on_gpu:
            torch.cuda.memory._record_memory_history(max_entries=_MAX_EVENTS)
        elif self._rank == 0:
            say(f"warning: log.memory_step={self._step} has no effect: memory snapshots are CUDA only", err=True)

    def step_ends(self, step: int, *, closing: bool) -> None:
        if step == self._step and self._on_gpu:
            self._write(f"step-{step}")
            torch.cuda.memory._record_memory_history(enabled=None)

    def run_fails(self, error: BaseException) -> None:
        if self._on_gpu and isinstance(error, torch.OutOfMemoryError):
            self._write("out-of-memory")

    def _write(self, name: str) -> None:
        path = self._folder / f"{name}-rank-{self._rank}.pickle"
        try:
            self._folder.mkdir(exist_ok=True)
            torch.cuda.memory._dump_snapshot(str(path))
        except OSError as error:  # no reason to end a run, or to hide the error that ends it
            say(f"warning: no memory snapshot at {path}: {error}", err=True)
        else:
            say(f"memory snapshot: {path}", err=True)
