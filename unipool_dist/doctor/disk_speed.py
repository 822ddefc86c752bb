"""Speed at which each node writes into the run directory, and reads what another has written there."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unipool_dist.base.units import ratios, seconds, size
from unipool_dist.doctor.findings import Check
from unipool_dist.doctor.judgement import slow
from unipool_dist.doctor.measurement import NotMeasuredError, Probe
from unipool_dist.doctor.roster import Roster
from unipool_dist.doctor.shared_directory import RunDirectory

_BLOCK_BYTES = 4_000_000
_LONGEST_S = 5.0
_MIN_BYTES_PER_S = 50e6
_SHARE_OF_FREE = 0.25


@dataclass(frozen=True)
class Transfer:
    """The bytes that one node wrote or read, and the time this took."""

    num_bytes: int
    seconds: float


class DiskWrite(Probe["Transfer | None"]):
    """The first rank of each node writes a file and flushes it to disk, all at the same time."""

    name = "write speed"
    measured = Transfer | None

    def __init__(self, directory: RunDirectory, rank: int, roster: Roster, num_bytes: int) -> None:
        self._directory, self._rank, self._roster, self._num_bytes = directory, rank, roster, num_bytes

    def brief(self) -> str:
        if not self._directory.usable:
            raise NotMeasuredError("the run directory must be dealt with first")
        spare = int(shutil.disk_usage(_folder(self._directory)).free * _SHARE_OF_FREE / len(self._roster.nodes))
        if min(spare, self._num_bytes) < _BLOCK_BYTES:
            raise NotMeasuredError(f"too little room to try: {size(spare)} could be written without filling the disk")
        return str(min(spare, self._num_bytes))

    def measure(self, brief: str) -> Transfer | None:
        if self._rank not in self._roster.leaders:
            return None
        block, done = random.Random(self._rank).randbytes(_BLOCK_BYTES), 0
        started = time.perf_counter()
        with (_folder(self._directory) / f"data-{self._rank}").open("wb", buffering=0) as file:
            while done < int(brief) and time.perf_counter() - started < _LONGEST_S:
                done += file.write(block)
            os.fsync(file.fileno())
            elapsed = time.perf_counter() - started
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return Transfer(done, elapsed)

    def judge(self, measured: Sequence[Transfer | None]) -> list[Check]:
        return [judge_speed(self.name, [measured[rank] for rank in self._roster.leaders], self._roster)]


class DiskRead(Probe["Transfer | None"]):
    """The first rank of each node reads what the next node has written, so that its own page cache does not answer."""

    name = "read speed"
    measured = Transfer | None

    def __init__(self, directory: RunDirectory, rank: int, roster: Roster) -> None:
        self._directory, self._rank, self._roster = directory, rank, roster

    def brief(self) -> str:
        if not self._directory.usable or not (_folder(self._directory) / "data-0").exists():
            raise NotMeasuredError("nothing was written that could be read")
        return ""

    def measure(self, brief: str) -> Transfer | None:
        leaders = self._roster.leaders
        if self._rank not in leaders:
            return None
        owner = leaders[(leaders.index(self._rank) + 1) % len(leaders)]
        buffer, done = bytearray(_BLOCK_BYTES), 0
        with (_folder(self._directory) / f"data-{owner}").open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            started = time.perf_counter()
            while time.perf_counter() - started < _LONGEST_S and (count := file.readinto(buffer)):
                done += count
            elapsed = time.perf_counter() - started
        return Transfer(done, elapsed)

    def judge(self, measured: Sequence[Transfer | None]) -> list[Check]:
        return [judge_speed(self.name, [measured[rank] for rank in self._roster.leaders], self._roster)]


def judge_speed(name: str, transfers: Sequence[Transfer | None], roster: Roster) -> Check:
    """Judge one transfer per node: nodes slower than the others, and whether the slowest is fast enough. Pure."""
    of_node = {node: one for node, one in zip(roster.nodes, transfers, strict=True) if one is not None}
    per_byte = {node: one.seconds / one.num_bytes for node, one in of_node.items()}
    slow_nodes = slow(per_byte)
    slowest = max(per_byte, key=lambda node: per_byte[node])
    bytes_per_s = 1 / per_byte[slowest]
    advice = ""
    if slow_nodes:
        advice = f"slower than the median node: {ratios(slow_nodes)}; look at its mount and its network"
    elif bytes_per_s < _MIN_BYTES_PER_S:
        advice = "checkpoints will take long; choose a run.dir on a faster file system"
    transfer = of_node[slowest]
    where = f" on {slowest}" if len(of_node) > 1 else ""
    return Check(
        name,
        "warn" if advice else "ok",
        f"{bytes_per_s / 1e6:,.0f} MB/s{where} ({size(transfer.num_bytes)} in {seconds(transfer.seconds)})",
        f"{_MIN_BYTES_PER_S / 1e6:.0f} MB/s on every node",
        advice,
        bytes_per_s / 1e6,
        "MB/s",
        {"nodes": [{"node": n, "bytes": t.num_bytes, "seconds": t.seconds} for n, t in of_node.items()]},
        slow_nodes=tuple(slow_nodes),
    )


def _folder(directory: RunDirectory) -> Path:
    assert directory.folder is not None
    return directory.folder
