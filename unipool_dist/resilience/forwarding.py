"""Passing signals on to workers, which lead their own sessions, so that a terminal's signals do not reach them."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from types import TracebackType

import psutil

from unipool_dist.base.console import say_at_once
from unipool_dist.resilience.signal_watch import SignalWatch

_LOOK_EVERY_S = 0.05


class SignalForwarder:
    """From entry to exit, passes each SIGTERM, SIGINT, SIGUSR1 and SIGHUP to this process on to each worker, once.

    Workers are the children that lead a session, as torch's elastic agent starts them. Those that start after the
    signal get it as soon as they exist, ``num_workers`` in all. If there is none ``patience_s`` after the signal, this
    process ends with status 128 + the signal's number.

    Entry, exit and :meth:`ignore_from_now` belong to the main thread.
    """

    def __init__(self, num_workers: int, patience_s: float = 2.0) -> None:
        self._num_workers, self._patience_s = num_workers, patience_s
        self._ended = threading.Event()
        # One thread per signal: a second must not wait for workers that the first still waits for.
        self._watch = SignalWatch(
            lambda number: threading.Thread(target=self._forward, args=(number,), daemon=True).start()
        )

    def __enter__(self) -> SignalForwarder:
        self._watch.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._watch.__exit__(kind, error, traceback)

    def ignore_from_now(self) -> None:
        """Ignore these signals from now on: the workers have ended and this process is about to."""
        self._ended.set()
        self._watch.ignore_from_now()

    def _forward(self, number: signal.Signals) -> None:
        told: set[int] = set()
        give_up = time.monotonic() + self._patience_s
        while len(told) < self._num_workers and not self._ended.is_set():
            for pid in session_leading_children() - told:
                told.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            if not told and time.monotonic() > give_up:
                say_at_once(f"{number.name} received before any process was started: ending")
                os._exit(128 + number)
            self._ended.wait(_LOOK_EVERY_S)


def session_leading_children() -> set[int]:
    """Return the process ids of the children of this process that lead a session."""
    pids = set()
    for child in psutil.Process().children():
        with suppress(ProcessLookupError):
            if os.getsid(child.pid) == child.pid:
                pids.add(child.pid)
    return pids
