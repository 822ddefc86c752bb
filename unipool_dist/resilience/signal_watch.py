"""Signals noticed at once, even while the main thread waits inside a library: a separate thread reads them.

Python runs a signal's handler in the main thread between two of its instructions, thus never during a collective.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


def taken_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that this process takes as a request to stop: all, without a SIGHUP ignored by nohup."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(number for number in STOP_SIGNALS if number != signal.SIGHUP or not ignored)


class SignalWatch:
    """From entry to exit, calls ``on_signal`` once for each of ``STOP_SIGNALS`` that the process takes.

    Under nohup SIGHUP stays ignored, here and in programs that this process starts.

    The calls come one after the other from a separate thread; none comes after exit, which restores the previous
    handlers and wakeup fd. System calls that a signal interrupts are restarted, so that libraries notice nothing.
    Signals that a launcher holds back (:func:`hold_signals`) come from entry on. Entry, exit and
    :meth:`ignore_from_now` belong to the main thread.
    """

    def __init__(self, on_signal: Callable[[signal.Signals], None]) -> None:
        self._on_signal = on_signal
        self._ignoring = False

    def __enter__(self) -> SignalWatch:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)  # or a handler could wait for the reader
        self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._old_handlers = {number: signal.signal(number, _nothing) for number in taken_signals()}
        for number in self._old_handlers:
            signal.siginterrupt(number, False)
        release_signals()
        self._thread = threading.Thread(target=self._read, name="signal-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._ignoring:
            for number, handler in self._old_handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._old_fd)
        self._writer.close()
        self._thread.join()
        self._reader.close()

    def ignore_from_now(self) -> None:
        """Ignore these signals from now on, also after exit, including those that came but were not yet read."""
        self._ignoring = True
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # no handler: the interpreter takes those away as it ends

    def mute(self) -> None:
        """Stop calling ``on_signal``, as the process ends without an exit from here. From any thread."""
        self._ignoring = True

    def _read(self) -> None:
        while numbers := self._reader.recv(64):  # one byte per signal; nothing once the writer is closed
            for number in numbers:
                if number in STOP_SIGNALS and not self._ignoring:
                    self._on_signal(signal.Signals(number))


@contextmanager
def hold_signals() -> Iterator[None]:
    """Hold back the ``STOP_SIGNALS`` from processes that this thread starts, until they call :func:`release_signals`.

    Until then the kernel keeps one of each: a Python that is still importing would be killed by it. This process takes
    them as before, as long as it has another thread.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def release_signals() -> None:
    """Accept the signals that the launcher holds back from this process; those that came meanwhile arrive at once."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _nothing(number: int, frame: FrameType | None) -> None:
    """Do nothing: without a handler the signal would have its default effect; the thread does the work."""
