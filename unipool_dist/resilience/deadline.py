"""When to stop so that the state is saved before time is up: arithmetic on durations."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

MARGIN = 1.2


class Deadline:
    """Says that time is up while one more step and one save, 20 % slower than the slowest seen, would still fit.

    ``limit_s`` counts from ``started``, a time of ``clock``; by default the start of the process. ``None``: never up.
    What was not observed counts as taking no time, so before the first step and save only the limit itself counts.
    """

    def __init__(
        self, limit_s: float | None, clock: Callable[[], float] = time.monotonic, started: float | None = None
    ) -> None:
        self.limit_s = limit_s
        self._clock = clock
        self._started = process_start_monotonic() if started is None else started
        self._longest_step = self._longest_save = 0.0

    def observe_step(self, seconds: float) -> None:
        """A step took ``seconds``."""
        self._longest_step = max(self._longest_step, seconds)

    def observe_save(self, seconds: float) -> None:
        """A save took ``seconds``."""
        self._longest_save = max(self._longest_save, seconds)

    def reached(self) -> bool:
        """Whether another step and a save might end after the limit."""
        if self.limit_s is None:
            return False
        needed = MARGIN * (self._longest_step + self._longest_save)
        return self._clock() - self._started + needed >= self.limit_s


def process_start_monotonic() -> float:
    """When this process started, on the clock of ``time.monotonic()``, to a second: before torch was imported."""
    age = time.time() - psutil.Process().create_time()
    return time.monotonic() - max(age, 0.0)
