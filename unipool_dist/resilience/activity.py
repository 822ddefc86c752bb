"""Signs of life of this process, for phases in which a rank may be busy for long without a beat."""

from __future__ import annotations

import time

import psutil

MIN_IO_BYTES = 16 * 1024
MIN_CPU_SHARE = 0.1


class Activity:
    """A comparison of what the process has read, written and computed since the last call.

    Args:
        cpu_counts: whether computing is a sign of life. Not with NCCL, where waiting for others keeps a core busy.
    """

    def __init__(self, *, cpu_counts: bool) -> None:
        self._process, self._cpu_counts = psutil.Process(), cpu_counts
        self._io, self._cpu_s, self._at = self._io_bytes(), time.process_time(), time.monotonic()

    def seen(self) -> bool:
        """Return whether 16 KiB were read or written since the last call, or a tenth of a core used if that counts."""
        io, cpu_s, at = self._io_bytes(), time.process_time(), time.monotonic()
        did_io = io - self._io >= MIN_IO_BYTES
        computed = self._cpu_counts and cpu_s - self._cpu_s >= MIN_CPU_SHARE * (at - self._at) > 0
        self._io, self._cpu_s, self._at = io, cpu_s, at
        return did_io or computed

    def _io_bytes(self) -> int:
        """Return the bytes that passed through read() and write(), including those from the page cache."""
        try:
            counters = self._process.io_counters()
        except (AttributeError, psutil.Error, OSError):  # not on every system
            return 0
        return getattr(counters, "read_chars", counters.read_bytes) + getattr(
            counters, "write_chars", counters.write_bytes
        )
