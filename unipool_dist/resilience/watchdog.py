"""The watchdog: when a run makes no progress, it records where each rank is, and ends the run for a restart."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import psutil
import torch.distributed as dist

from unipool_dist.base.console import say_at_once
from unipool_dist.base.exit_statuses import RESUME
from unipool_dist.base.run_directory import WatchdogFolder
from unipool_dist.base.units import as_ranges
from unipool_dist.comm.notes import Notes
from unipool_dist.engine.callback import Callback
from unipool_dist.resilience.activity import Activity
from unipool_dist.resilience.board import Board, BoardLostError
from unipool_dist.resilience.collectives import Group, entered, last_of, recorded
from unipool_dist.resilience.patience import Patience
from unipool_dist.resilience.stacks import (
    HeldInterpreterDump,
    in_debugger,
    in_point_to_point,
    main_stack,
    place,
    side_threads,
    stacks,
)
from unipool_dist.resilience.watchdog_inquiry import ANSWER_S, END_S, Inquiry
from unipool_dist.resilience.watchdog_report import Report, Whereabouts

_SCOPE = "watchdog"
"""Scope of its notes in the store of the processes."""
_ASK_AGAIN_S = 60.0

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class _Now:
    """The last beat of the training thread."""

    number: int
    doing: str
    step: int | None
    steps_begun: int
    slow: bool


class Watchdog(Callback):
    """From :meth:`watch` to exit, ends the run with status 75 if a rank makes no progress for ``limit_s``.

    Before that, all ranks write down their stacks and the collectives that they have entered, and one summary on
    stderr says which ranks differ. This takes ``ANSWER_S`` + ``LOOK_S`` seconds at most in all but bad cases, and
    ``END_S`` in any.

    Only time in which this process ran counts, so a suspended machine is not a stuck one. In slow phases (see
    :meth:`doing`), and while a rank is held in a Python debugger, no rank is taken to be stuck as long as any of those
    is active. An error of the watchdog itself is a warning, once; the run continues without it.

    Args:
        folder: ``RUN/watchdog``; made when there is something to write.
        on_alarm: called from the watchdog's thread when the run is known to be stuck.

    Collectives: none; the ranks communicate through the store that they met in, or if it does not answer through a
    file in ``folder``.
    """

    def __init__(
        self, limit_s: float, folder: Path, rank: int, world_size: int, on_alarm: Callable[[], None] = lambda: None
    ) -> None:
        self._limit_s, self._folder, self._rank, self._world_size = limit_s, folder, rank, world_size
        self._on_alarm = on_alarm
        self._tick_s, self._answer_s = min(2.0, limit_s / 20), min(ANSWER_S, limit_s)
        self._now = _Now(0, "being set up", None, 0, True)
        self._stop, self._alarmed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def doing(self, what: str, *, step: int | None = None, slow: bool = False) -> None:
        """Report progress of the training thread, which is now doing ``what``.

        Args:
            step: which step this begins.
            slow: this may take longer than the limit. Until the next call, reading, writing and (without GPUs)
                computing count as progress, of any rank for all ranks. Everything before the second step is slow.
        """
        now = self._now
        begun = now.steps_begun + (step is not None)
        self._now = _Now(now.number + 1, what, now.step if step is None else step, begun, slow or begun < 2)

    def watch(self, groups: Mapping[str, dist.ProcessGroup], *, cpu_counts: bool) -> None:
        """Begin watching. The process groups exist; of several equal ones the first gives its name.

        Args:
            cpu_counts: whether a rank that computes is not waiting: true unless it waits for a GPU.
        """
        self._groups: dict[str, Group] = {}
        for name, group in groups.items():
            members = as_ranges(dist.get_process_group_ranks(group))
            self._groups.setdefault(group.group_name, Group(name, members))
        self._store = dist.distributed_c10d._get_default_store()
        self._board = self._open_board()
        self._ask_again_at = 0.0
        self._first: str | None = None
        self._activity = Activity(cpu_counts=cpu_counts)
        self._patience = Patience(self._limit_s, self._tick_s)
        self._held = HeldInterpreterDump(self._limit_s)
        self._thread = threading.Thread(target=self._run, name=_SCOPE, daemon=True)
        self._thread.start()

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is None:
            return
        if self._alarmed.is_set():
            self._thread.join()  # for ever: what ends the training thread now is that other ranks have ended
        self._thread.join(self._tick_s + 1)
        self._held.cancel()
        self._board.close()

    def _run(self) -> None:
        try:
            self._announce()
            self._held.rearm()
            while not self._stop.wait(self._tick_s):
                self._tick()
        except Exception as error:  # a failing watchdog must not end the run
            if not self._stop.is_set():
                say_at_once(f"warning: rank {self._rank}: the watchdog has failed, nobody watches this rank: {error!r}")
            with suppress(Exception):
                self._held.cancel()

    def _announce(self) -> None:
        """Agree on a name for the folder, and leave a note on how this process can be found."""
        process = psutil.Process()
        where = Whereabouts(self._rank, socket.gethostname(), process.pid, process.create_time(), self._held.descriptor)
        name = datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
        try:
            name = self._board.claim("name", name)
            self._board.put(f"where/{self._rank}", where.to_json())
        except BoardLostError:
            name = "alone"
        self._folder /= name

    def _tick(self) -> None:
        """Look at the training thread once, and listen to the others."""
        self._held.rearm()
        now, patience = self._now, self._patience
        patience.tick(time.monotonic(), now.number)
        if (now.slow and self._activity.seen()) or in_debugger(main_stack()):
            patience.excuse()
            self._ask(lambda board: board.count("excused", 1))
        elif patience.half_gone:
            patience.others_excused(self._ask(lambda board: board.count("excused")))
        if self._first is None:
            self._first = self._ask(lambda board: board.get("where/0"))
        own = json.dumps({"rank": self._rank, "doing": now.doing})
        stuck = patience.gone and now.number == self._now.number
        alarm = self._ask(lambda board: board.claim("alarm", own) if stuck else board.get("alarm"))
        board = self._board
        # Without the store nothing is heard of others in a slow phase; there, collectives time out at last.
        if self._board.lost is not None and (self._file.exists() or (stuck and not now.slow)):
            board, alarm = self._open_file_board(), own
            with suppress(BoardLostError):
                alarm = board.claim("alarm", own)
                if self._first is not None:  # the store was perhaps in rank 0, which then is the one to look for
                    board.put("where/0", self._first)
        if alarm is not None and not self._stop.is_set():
            self._alarmed.set()
            threading.Thread(target=_end_after, args=(END_S,), daemon=True).start()
            self._answer(board, json.loads(alarm))

    def _answer(self, board: Board, alarm: dict) -> None:
        """Take part in the inquiry. Does not return."""
        found = stacks()
        now, main = self._now, found[0]
        self._on_alarm()
        collectives = recorded(self._groups)
        of_training = recorded(self._groups, without_threads=side_threads())
        report = Report(
            rank=self._rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            step=now.step,
            doing=now.doing,
            quiet_s=self._patience.quiet_s,
            place=place(main),
            collective=last_of(of_training),
            point_to_point=in_point_to_point(main),
            entered=entered(of_training),
        )
        reason = (
            f"noticed by rank {alarm['rank']}: nothing new for {self._limit_s:g} s (run.watchdog_s), {alarm['doing']}"
        )
        Inquiry(board, self._world_size, self._folder, report, found, collectives, reason, self._answer_s).run()

    def _ask(self, call: Callable[[Board], Answer]) -> Answer | None:
        """Return the board's answer; ``None`` if the board is lost."""
        if self._board.lost is not None and time.monotonic() >= self._ask_again_at:
            self._board.close()
            self._board = self._open_board()
        try:
            return call(self._board)
        except BoardLostError:
            self._ask_again_at = max(self._ask_again_at, time.monotonic() + _ASK_AGAIN_S)
            return None

    def _open_board(self) -> Board:
        return Board(lambda: Notes(self._store.clone(), _SCOPE), self._answer_s)  # type: ignore[attr-defined]

    @property
    def _file(self) -> Path:
        return WatchdogFolder(self._folder).board

    def _open_file_board(self) -> Board:
        def opened() -> Notes:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            return Notes(dist.FileStore(str(self._file), -1), _SCOPE)

        return Board(opened, self._answer_s)


def _end_after(seconds: float) -> None:
    time.sleep(seconds)
    os._exit(RESUME)
