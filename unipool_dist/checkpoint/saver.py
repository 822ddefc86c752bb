"""When checkpoints are written, and which are deleted; a thread writes them while training continues."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable

import torch.distributed as dist
from torch import Tensor

from unipool_dist.base.belongings import ForeignError
from unipool_dist.base.machine import current_versions
from unipool_dist.checkpoint.directory import CheckpointDirectory, outdated
from unipool_dist.checkpoint.pieces import Piece
from unipool_dist.checkpoint.progress import DataIdentity, Progress, now
from unipool_dist.checkpoint.randomness import random_state
from unipool_dist.checkpoint.save import write_checkpoint
from unipool_dist.checkpoint.shares import share_writes
from unipool_dist.checkpoint.snapshot import Snapshot
from unipool_dist.checkpoint.state import Held, TrainingState
from unipool_dist.checkpoint.transfer import receive_buffers
from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.config.plan import Plan
from unipool_dist.engine.callback import Callback, SaveReport
from unipool_dist.errors import CheckpointError, NonFiniteError, UnipoolError


class Saver(Callback):
    """The writer of one run's checkpoints. All methods are called by all ranks alike.

    A save is left to a thread, which copies the state to host memory and writes the copy while training continues.
    Training waits for the copy before its next update of weights, and for the writing before the next save. A save that
    fails is reported and leaves the older checkpoints as they are; the run continues to the next one.

    Args:
        data: returns the identity of the training data of a step.
        listener: called with every save, on every rank.

    Collectives of the constructor: one all_gather_object over the storage group.
    """

    def __init__(
        self,
        plan: Plan,
        groups: ParallelGroups,
        state: TrainingState,
        directory: CheckpointDirectory,
        data: Callable[[int], DataIdentity],
        listener: Callback,
    ) -> None:
        self._run, self._settings, self._groups = plan, plan.checkpoint, groups
        self._state, self._directory, self._data, self._listener = state, directory, data, listener
        if groups.rank == 0:  # a save does not make it: then it has been taken away
            directory.path.parent.mkdir(parents=True, exist_ok=True)
        self._plan()
        self._copied = threading.Event()
        self._copied.set()
        state.optimizer.register_change_hook(self._wait_for_copy)
        self._thread: threading.Thread | None = None
        self._current: SaveReport | None = None
        self._last_step: int | None = None

    def _plan(self) -> None:
        """Agree who writes what, and make the memory for it.

        Collectives: one all_gather_object over the storage group.
        """
        self._planned_moves = self._state.optimizer.num_moves
        storage, held = self._groups.storage, self._state.held()
        pieces: list[list] = [[] for _ in range(storage.size())]
        dist.all_gather_object(pieces, [item.piece for item in held], storage)
        self._writes = share_writes(pieces)
        by_key: dict[str, list[Held]] = defaultdict(list)
        for item in held:
            by_key[item.piece.key].append(item)
        mine = [write.piece for write in self._writes if write.holder == storage.rank()]
        self._snapshot = Snapshot(
            [next(item for item in by_key[piece.key] if item.holds(piece)).part(piece) for piece in mine]
        )
        self._buffers = receive_buffers(self._writes, storage.rank())

    @property
    def num_bytes(self) -> int:
        """Bytes that this rank writes in one save."""
        return sum(write.piece.num_bytes for write in self._writes if write.writer == self._groups.storage.rank())

    def step_ends(self, step: int, *, closing: bool) -> None:
        """Save if it is due, or if the run is ``closing``; then the checkpoint is on disk when this returns.

        Raises:
            CheckpointError: the run is closing and its state could not be saved.
        """
        if not self.busy:
            self.wait()
        interval = self._settings.interval
        due = closing or (interval > 0 and step % interval == 0)
        if due and self._last_step != step:
            self.save(step, waiting=closing or not self._settings.asynchronous)
        if closing:
            self.wait()
            if self._last_step != step:
                assert self._current is not None
                raise CheckpointError(f"the run ends without its last state saved: {self._current.error}")

    def run_fails(self, error: BaseException) -> None:
        if isinstance(error, NonFiniteError):  # raised on every rank alike, and what is being written is good
            self.wait()

    def save(self, step: int, *, waiting: bool = False) -> None:
        """Begin to save the state, which is that of ``step``; if ``waiting``, return when it is saved.

        Collectives: if experts have moved, one all_gather_object over the storage group; one all-reduce over the world
        here; those of ``write_checkpoint`` in the thread.
        """
        started = time.perf_counter()
        self.wait()
        if self._state.optimizer.num_moves != self._planned_moves:
            self._plan()
        self._listener.save_begins(step)
        self._state.small.collect()
        copying = not waiting or self._snapshot.on_gpu  # in host memory that nothing changes there is no need to
        if copying:
            self._snapshot.begin()
            self._copied.clear()
        self._current = SaveReport(step, stall_s=0.0)
        arguments = (self._progress(step), copying, self._current)
        self._thread = threading.Thread(target=self._write, args=arguments, daemon=True)
        self._thread.start()
        if waiting:
            self._thread.join()
        self._current.stall_s = time.perf_counter() - started
        if waiting:
            self.wait()

    @property
    def busy(self) -> bool:
        """Whether a save is still being written by this rank."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Wait for the save under way, if there is one, and report it.

        Raises:
            Exception: the ranks did not agree on how it ended, because one has gone or a message was lost. No later
                save
                could succeed, so the run must not continue.
        """
        if self._thread is None:
            return
        assert self._current is not None
        self._thread.join()
        self._thread = None
        if self._current.error is None:
            self._last_step = self._current.step
        self._listener.save_done(self._current)
        if self._current.error is not None and not isinstance(self._current.error, UnipoolError):
            raise self._current.error

    def _wait_for_copy(self) -> None:
        """Wait for the copy, as the weights are about to change."""
        if self._copied.is_set():
            return
        assert self._current is not None
        started = time.perf_counter()
        self._copied.wait()
        self._current.stall_s += time.perf_counter() - started

    def _copy(self) -> Callable[[Piece], Tensor]:
        try:
            self._snapshot.finish()
        finally:
            self._copied.set()
        return self._snapshot.values

    def _write(self, progress: Progress, copying: bool, report: SaveReport) -> None:
        started = time.perf_counter()
        try:
            values = self._copy() if copying else self._snapshot.originals
            report.num_bytes = write_checkpoint(
                self._directory, progress, self._run.config, self._writes, values, self._buffers, self._groups.storage
            )
        except Exception as error:  # handed to the training thread, which decides
            report.error = error
        else:
            if self._groups.rank == 0:
                report.warning = self._delete_outdated()
        report.write_s = time.perf_counter() - started

    def _delete_outdated(self) -> str | None:
        """Delete outdated checkpoints; return what went wrong, as an error here is no reason to lose the run."""
        problems = []
        for step in outdated(self._directory.steps(), self._settings.keep_last, self._settings.keep_every):
            try:
                self._directory.delete(step)
            except (OSError, ForeignError) as error:
                problems.append(str(error))
        return f"an old checkpoint could not be deleted: {'; '.join(problems)}" if problems else None

    def _progress(self, step: int) -> Progress:
        grid = self._groups.grid
        return Progress(
            step=step,
            consumed_samples=self._run.stages.samples(step),
            schedule_steps=self._state.optimizer.num_steps,
            optimizer_states=True,
            data=self._data(step),
            random=random_state(),
            versions=current_versions(),
            layout={
                "pp": grid.pp,
                "dp": grid.dp,
                "tp": grid.tp,
                "pool_parallel_size": grid.pool_parallel_size,
                "stages_per_group": grid.stages_per_group,
            },
            written_at=now(),
        )
