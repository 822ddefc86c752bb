"""When to stop so that the state is saved before the time limit: arithmetic on durations."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

MARGIN = 1.2


class Deadline:
    """A time limit, reached while one more step and the saves still fit, each 20 % slower than the slowest seen.

    What was not observed counts as taking no time, so before the first step and save only the limit itself counts,
    unless :meth:`assume_save` was called.

    Args:
        limit_s: seconds from ``started``; ``None``: no limit.
        num_saves: saves that may have to be waited for at the limit: the last one, and one that began just before.
        started: a time of ``clock``; by default the start of the process.
    """

    def __init__(
        self,
        limit_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        started: float | None = None,
        *,
        num_saves: int = 1,
    ) -> None:
        self.limit_s = limit_s
        self._num_saves = num_saves
        self._clock = clock
        self._started = process_start_monotonic() if started is None else started
        self._longest_step = self._assumed_save = 0.0
        self._longest_save: float | None = None

    def assume_save(self, seconds: float) -> None:
        """Assume that a save takes ``seconds`` until one was observed."""
        self._assumed_save = seconds

    def observe_step(self, seconds: float) -> None:
        """Take note that a step took ``seconds``."""
        self._longest_step = max(self._longest_step, seconds)

    def observe_save(self, seconds: float) -> None:
        """Take note that a save took ``seconds``."""
        self._longest_save = max(self._longest_save or 0.0, seconds)

    def reached(self) -> bool:
        """Return whether another step and the saves might end after the limit."""
        if self.limit_s is None:
            return False
        save = self._assumed_save if self._longest_save is None else self._longest_save
        needed = MARGIN * (self._longest_step + self._num_saves * save)
        return self._clock() - self._started + needed >= self.limit_s


def process_start_monotonic() -> float:
    """Return when this process started, on the clock of ``time.monotonic()``, to a second.

    That is before torch was imported.
    """
    age = time.time() - psutil.Process().create_time()
    return time.monotonic() - max(age, 0.0)
