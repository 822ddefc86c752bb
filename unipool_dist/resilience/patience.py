"""For how long a rank has made no progress: pure, from readings of a clock."""

from __future__ import annotations


class Patience:
    """A count of how long a number has stayed the same, in time that was seen to pass.

    Between two readings no more than ``2 * tick_s`` counts, however far they are apart: then this process was stopped,
    or the machine suspended, and could not have made progress.
    """

    def __init__(self, limit_s: float, tick_s: float) -> None:
        self._limit_s, self._most_s = limit_s, 2 * tick_s
        self._last: float | None = None
        self._number: int | None = None
        self._excuses: int | None = None
        self._waited_s = 0.0
        self.quiet_s = 0.0
        """Time since the number changed."""

    def tick(self, now: float, number: int) -> None:
        """Take a reading of the clock, and of the number."""
        passed = 0.0 if self._last is None else min(now - self._last, self._most_s)
        self._last = now
        if number != self._number:
            self._number, self._waited_s, self.quiet_s = number, 0.0, 0.0
            self._excuses = None
        else:
            self._waited_s += passed
            self.quiet_s += passed

    def excuse(self) -> None:
        """Excuse the number for staying the same."""
        self._waited_s = 0.0

    def others_excused(self, count: int | None) -> None:
        """Take note of how often any rank was excused; one more than at the last call excuses this one, too.

        It then has half of its patience left, so that it keeps asking.
        """
        if count is None:
            return
        if self._excuses is not None and count != self._excuses:
            self._waited_s = self._limit_s / 2
        self._excuses = count

    @property
    def half_gone(self) -> bool:
        """Whether it is time to ask whether others have an excuse."""
        return self._waited_s >= self._limit_s / 2

    @property
    def gone(self) -> bool:
        """Whether the limit is reached."""
        return self._waited_s >= self._limit_s
