"""A rank's reaction to signals: the first asks it to stop in good order, the second ends it at once."""

from __future__ import annotations

import os
import signal
import time
from types import TracebackType

from unipool_dist.base.console import say_at_once
from unipool_dist.resilience.signal_watch import SignalWatch


class StopSignals:
    """From entry to exit, remembers the first SIGTERM, SIGINT, SIGUSR1 or SIGHUP; a second ends the process.

    Either takes effect even while the main thread waits in a collective, and is reported in one line on stderr. The
    second ends the process at once with status 128 + its number. Signals within ``same_request_s`` of the first are
    the same request: a terminal, a cluster and a launcher may all deliver it.

    Entry, exit and :meth:`ignore_from_now` belong to the main thread. Exit restores the previous handlers.
    """

    def __init__(self, rank: int | None = None, same_request_s: float = 0.2) -> None:
        self.received: signal.Signals | None = None
        self.rank = rank
        """Only for messages; ``None`` as long as it is not known."""
        self._same_request_s = same_request_s
        self._received_at = 0.0
        self._watch = SignalWatch(self._on_signal)

    def __enter__(self) -> StopSignals:
        self._watch.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watch.__exit__(kind, error, traceback)

    def ignore_from_now(self) -> None:
        """Ignore these signals from now on, also after exit: the state is saved and the process about to exit.

        Every rank must have called it before any rank exits: torchrun's agent sends SIGTERM to the others as soon as
        the first has, which would be their second signal.
        """
        self._watch.ignore_from_now()

    def mute(self) -> None:
        """Ignore signals from now on, as the process is about to end for another reason. From any thread."""
        self._watch.mute()

    def _on_signal(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = number, now
            self._say(
                f"{number.name} received: finishing this step, saving, and stopping; a second signal ends the process "
                f"at once"
            )
        elif now - self._received_at > self._same_request_s:
            self._say(f"{number.name} received, the second signal: ending at once, without saving")
            os._exit(128 + number)

    def _say(self, line: str) -> None:
        name = f"process {os.getpid()}" if self.rank is None else f"rank {self.rank}"
        say_at_once(f"{name}: {line}")
