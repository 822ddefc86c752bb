"""Batches read by a thread while training computes.

Guarantees: what is handed out is what reading at that moment would give, in the order asked for; an error of reading is
raised when its batch is asked for, not earlier; what was read and never asked for has no effect, so a run that stops
and resumes reads it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
Request = tuple[int, int]
"""``(consumed_samples, microbatch)``."""


class ReadAhead(Generic[T]):
    """``read`` as a function that has mostly been called already.

    Args:
        read: called with the two numbers of a request, by one thread, for one request at a time.
        following: the request that comes after one; ``None`` if it is the last.
        depth: most results that are kept before they are asked for.
    """

    def __init__(
        self, read: Callable[[int, int], T], following: Callable[[int, int], Request | None], depth: int
    ) -> None:
        assert depth >= 1
        self._read, self._following, self._depth = read, following, depth
        self._executor = ThreadPoolExecutor(1, "read-ahead")
        self._ahead: deque[tuple[Request, Future[T]]] = deque()
        self._next: Request | None = None

    def __call__(self, consumed_samples: int, microbatch: int) -> T:
        """Return the result of a request, and have those that follow it read.

        Raises:
            Exception: whatever ``read`` raised for this request.
        """
        request = (consumed_samples, microbatch)
        if not self._ahead or self._ahead[0][0] != request:  # the first one, or a jump
            self._drop()
            self._next = request
            self._fill()
        _, result = self._ahead.popleft()
        self._fill()
        return result.result()

    def close(self) -> None:
        """End the thread, which finishes the request it is at; nothing can be asked for afterwards."""
        self._drop()
        self._executor.shutdown(cancel_futures=True)

    def _fill(self) -> None:
        while self._next is not None and len(self._ahead) < self._depth:
            self._ahead.append((self._next, self._executor.submit(self._read, *self._next)))
            self._next = self._following(*self._next)

    def _drop(self) -> None:
        while self._ahead:
            self._ahead.pop()[1].cancel()
