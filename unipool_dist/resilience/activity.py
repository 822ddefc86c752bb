"""Whether this process does anything: for phases in which a rank may be busy for long without saying so."""

from __future__ import annotations

import time

import psutil

MIN_IO_BYTES = 16 * 1024
MIN_CPU_SHARE = 0.1


class Activity:
    """Compares what the process has read, written and computed with the last time it was asked.

    Args:
        cpu_counts: whether computing is a sign of life. Not with NCCL, where waiting for others keeps a core busy.
    """

    def __init__(self, *, cpu_counts: bool) -> None:
        self._process, self._cpu_counts = psutil.Process(), cpu_counts
        self._io, self._cpu_s, self._at = self._io_bytes(), time.process_time(), time.monotonic()

    def seen(self) -> bool:
        """Since the last call: 16 KiB read or written, or a tenth of a core used where that counts."""
        io, cpu_s, at = self._io_bytes(), time.process_time(), time.monotonic()
        did_io = io - self._io >= MIN_IO_BYTES
        computed = self._cpu_counts and cpu_s - self._cpu_s >= MIN_CPU_SHARE * (at - self._at) > 0
        self._io, self._cpu_s, self._at = io, cpu_s, at
        return did_io or computed

    def _io_bytes(self) -> int:
        """Bytes that passed through read() and write(), from the page cache too."""
        try:
            counters = self._process.io_counters()
        except (AttributeError, psutil.Error, OSError):  # not on every system
            return 0
        return getattr(counters, "read_chars", counters.read_bytes) + getattr(
            counters, "write_chars", counters.write_bytes
        )
