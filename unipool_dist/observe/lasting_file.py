"""A file of records that never ends the run that appends to it: what cannot be written now is written later."""

from __future__ import annotations

import errno
import os
from collections import deque
from contextlib import suppress
from pathlib import Path

from unipool_dist.base.console import say

MAX_KEPT_BYTES = 64 << 20
"""Bytes of records that wait in memory for room; beyond this the oldest are dropped."""


class LastingFile:
    """An append-only file of records: each is in ``path`` when :meth:`write` returns, or is kept and tried again.

    A full disk, a quota or a deleted file is reported once on stderr, and so is its end. A truncated record is removed
    before anything else is appended.

    Raises:
        OSError: ``path`` cannot be opened to begin with.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._size = os.fstat(self._descriptor).st_size
        self._waiting: deque[bytes] = deque()
        self._num_waiting_bytes = self._num_dropped = 0
        self._is_torn = self._was_told = False

    def write(self, record: bytes) -> None:
        """Append ``record``, after those that wait."""
        self._waiting.append(record)
        self._num_waiting_bytes += len(record)
        while self._num_waiting_bytes > MAX_KEPT_BYTES:
            self._num_waiting_bytes -= len(self._waiting.popleft())
            self._num_dropped += 1
        self._try()

    def close(self) -> None:
        """Try once more to write what waits, and report what is lost; closing twice is harmless."""
        if self._descriptor is None:
            return
        if self._waiting:
            self._try()
        lost = len(self._waiting) + self._num_dropped
        if lost:
            say(f"warning: {self.path} lacks {lost} records, which could not be written", err=True)
        descriptor, self._descriptor = self._descriptor, None
        with suppress(OSError):  # file servers may tell only now; what was written is what they kept
            os.close(descriptor)

    def _try(self) -> None:
        assert self._descriptor is not None, f"{self.path} is closed"
        try:
            if os.fstat(self._descriptor).st_nlink == 0:
                raise OSError(errno.ENOENT, "it was deleted")
            self._take_back()
            while self._waiting:
                self._is_torn = True
                _write_all(self._descriptor, self._waiting[0])
                self._is_torn = False
                done = len(self._waiting.popleft())
                self._size += done
                self._num_waiting_bytes -= done
        except OSError as error:
            with suppress(OSError):
                self._take_back()
            if not self._was_told:
                self._was_told = True
                say(
                    f"warning: {self.path} cannot be written: {error.strerror}; the run continues, and what it has to "
                    f"record there is kept in memory until there is room",
                    err=True,
                )
            return
        if self._was_told:
            self._was_told = False
            say(f"note: {self.path} can be written again", err=True)

    def _take_back(self) -> None:
        assert self._descriptor is not None
        if self._is_torn:
            os.ftruncate(self._descriptor, self._size)
            self._is_torn = False


def _write_all(descriptor: int, record: bytes) -> None:
    rest = memoryview(record)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
