"""The inquiry of a stuck run: every rank records where it is, one finds out who differs, and all end."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from unipool_dist.base.console import say_at_once
from unipool_dist.base.exit_statuses import RESUME
from unipool_dist.base.printable import printable
from unipool_dist.base.run_directory import WatchdogFolder
from unipool_dist.resilience.board import Board, BoardLostError
from unipool_dist.resilience.collectives import NUM_SHOWN, Collective
from unipool_dist.resilience.same_run import find_rank, kill_rank
from unipool_dist.resilience.stacks import Stack, place_in_dump, read_held_dump, render
from unipool_dist.resilience.watchdog_report import NoProgressError, Report, Whereabouts
from unipool_dist.resilience.watchdog_summary import summarize

ANSWER_S = 5.0
"""Longest time for the others to answer; not longer than the limit itself."""
LOOK_S = 3.0
"""Time for the ranks of a host to examine those of it that do not."""
END_S = 30.0
"""After this a rank ends, whatever it still waits for; in addition to :meth:`Inquiry.run`."""
_POLL_S = 0.2


class Inquiry:
    """One rank's part of the inquiry; :meth:`run` does not return.

    Args:
        folder: for the files; need not exist.
        found: stacks of this process.
        collectives: the newest that this process has entered.
        reason: how it was noticed, for the summary; the same on every rank.
        answer_s: how long to wait for the other ranks.
    """

    def __init__(
        self,
        board: Board,
        world_size: int,
        folder: Path,
        report: Report,
        found: Sequence[Stack],
        collectives: Sequence[Collective],
        reason: str,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._answer_s = answer_s
        self._board, self._world_size, self._folder = board, world_size, WatchdogFolder(folder)
        self._report, self._stacks, self._collectives, self._reason = report, found, collectives, reason
        self._looked_at: list[Whereabouts] = []

    def run(self) -> None:
        """Hold the inquiry and end the process with status 75."""
        # A thread: the file system may be what the run waits for.
        writer = threading.Thread(target=self._write_stacks, daemon=True)
        with suppress(BoardLostError):
            self._board.put(f"report/{self._report.rank}", self._report.to_json())
            self._board.count("answers", 1)
        writer.start()
        try:
            self._wait(lambda: self._board.count("answers") >= self._world_size, self._answer_s)
            self._lead() if self._leads() else self._follow()
        except BoardLostError as error:
            place = f"rank {self._report.rank} at {self._report.place}"
            say_at_once(f"watchdog: {place}; the other ranks are unknown: {error}")
        writer.join(ANSWER_S)
        with suppress(OSError):
            get_error_handler().record_exception(NoProgressError(str(self._folder.summary)))
        for process in self._looked_at:
            _kill(process)
        os._exit(RESUME)

    def _leads(self) -> bool:
        """Return whether no lower rank has answered."""
        return all(self._board.get(f"report/{rank}") is None for rank in range(self._report.rank))

    def _lead(self) -> None:
        answers = {rank: self._board.get(f"report/{rank}") for rank in range(self._world_size)}
        reports = {rank: Report.from_json(text) for rank, text in answers.items() if text is not None}
        missing = sorted(answers.keys() - reports.keys())
        texts = {rank: self._board.get(f"where/{rank}") for rank in missing}
        where = {rank: Whereabouts.from_json(text) for rank, text in texts.items() if text is not None}
        self._board.put("silent", json.dumps([text for text in texts.values() if text is not None]))
        self._look_at(list(where.values()))
        notes: dict[int, str] = {}

        def all_noted() -> bool:
            for rank in where.keys() - notes.keys():
                note = self._board.get(f"note/{rank}")
                if note is not None:
                    notes[rank] = note
            return len(notes) == len(where)

        hosts = {report.host for report in reports.values()}
        if hosts & {process.host for process in where.values()}:
            self._wait(all_noted, LOOK_S)
        silent = {rank: notes.get(rank) or _unseen(where.get(rank), hosts) for rank in missing}
        text = self._text(summarize(reports, silent))
        say_at_once(text.removesuffix("\n"))
        # Said already, so the others need not wait for the file.
        self._board.put("done", "")
        with suppress(OSError):
            self._folder.path.mkdir(parents=True, exist_ok=True)
            self._folder.summary.write_text(printable(text, lines=True), encoding="utf-8")
        time.sleep(5 * _POLL_S)  # the store may end with this process, and the others still ask it

    def _text(self, summary: list[str]) -> str:
        lines = [f"watchdog: {summary[0]}", *(f"  {line}" for line in summary[1:]), f"  {self._reason}"]
        lines += [
            f"stacks of all ranks: {self._folder.stacks('*')}",
            f"all processes end now, with status {RESUME}: the same command with --resume continues from the newest "
            "checkpoint.",
            "If ranks of the same host differ again, leave that host out; if it is the same place, it is the program.",
        ]
        return printable("\n".join(lines) + "\n", lines=True)  # names of files and functions are in it

    def _follow(self) -> None:
        """Examine the silent ranks of this host when asked to; wait until the summary was printed."""
        looked = False

        def done() -> bool:
            nonlocal looked
            if not looked and (asked := self._board.get("silent")) is not None:
                looked = True
                self._look_at([Whereabouts.from_json(text) for text in json.loads(asked)])
            return self._board.get("done") is not None

        self._wait(done, self._answer_s + LOOK_S)

    def _look_at(self, silent: Sequence[Whereabouts]) -> None:
        """Leave a note on each silent rank of this host, if this is the first rank of the host to do so."""
        here = [process for process in silent if process.host == self._report.host]
        rank = str(self._report.rank)
        if not here or self._board.claim(f"look/{self._report.host}", rank) != rank:
            return
        for process in here:
            stacks = _held_stacks(process)
            self._board.put(f"note/{process.rank}", describe(process, stacks))
            if stacks:
                with suppress(OSError):
                    self._folder.path.mkdir(parents=True, exist_ok=True)
                    self._folder.stacks(process.rank).write_text(stacks)
        self._looked_at = here

    def _write_stacks(self) -> None:
        report, lines = self._report, []
        lines.append(f"rank {report.rank}, process {report.pid} on host {report.host}, step {report.step}")
        lines.append(f"{report.doing}, for {report.quiet_s:.1f} s")
        lines.append("")
        lines.append("newest collectives of this process, the newest last:")
        lines += [f"  {c}: {'completed' if c.completed else 'NOT COMPLETED'}" for c in self._collectives[-NUM_SHOWN:]]
        if not self._collectives:
            lines.append("  none recorded; is torch's flight recorder turned off (TORCH_FR_BUFFER_SIZE)?")
        with suppress(OSError):
            self._folder.path.mkdir(parents=True, exist_ok=True)
            path = self._folder.stacks(report.rank)
            path.write_text("\n".join([*lines, "", render(list(self._stacks))]))

    def _wait(self, condition: Callable[[], bool], at_most_s: float) -> None:
        until = time.monotonic() + at_most_s
        while not condition() and time.monotonic() < until:
            time.sleep(_POLL_S)


def describe(process: Whereabouts, stacks: str) -> str:
    """Describe what can be seen of a process of this host whose watchdog does not answer."""
    subject = f"process {process.pid} on host {process.host}"
    found = _process(process)
    if found is None:
        return f"{subject} is gone"
    status = found.status()
    if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
        return f"{subject} has ended"
    if status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
        return f"{subject} is stopped (SIGSTOP, or a debugger holds it)"
    if status == psutil.STATUS_DISK_SLEEP:
        return f"{subject} waits for a disk or a file system"
    at = place_in_dump(stacks)
    return f"{subject} is there, but runs no Python: a C call holds the interpreter" + (f", made at {at}" if at else "")


def _held_stacks(process: Whereabouts) -> str:
    if process.stacks_descriptor is None or not _is_here(process):
        return ""
    if find_rank(process.pid, process.created, process.rank) is None:
        return ""
    return read_held_dump(process.pid, process.stacks_descriptor)


def _unseen(process: Whereabouts | None, hosts: set[str]) -> str:
    if process is None:
        return "it has left no trace"
    if process.host in hosts:
        return f"process {process.pid} on host {process.host}, which nobody could look at in time"
    return f"nothing answers on its host {process.host}: the node is lost, or all processes there are"


def _process(whereabouts: Whereabouts) -> psutil.Process | None:
    try:
        found = psutil.Process(whereabouts.pid)
        same = abs(found.create_time() - whereabouts.created) < 1
        return found if same and _is_here(whereabouts) else None
    except psutil.Error:
        return None


def _is_here(process: Whereabouts) -> bool:
    return process.host == socket.gethostname()


def _kill(process: Whereabouts) -> None:
    """End a process that does not run and so cannot end itself: a launcher would wait for it."""
    if _is_here(process):
        kill_rank(process.pid, process.created, process.rank)
