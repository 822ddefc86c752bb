"""Free space in the run directory, compared with what the checkpoints of the configuration will need."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unipool_dist.base.units import counted, size
from unipool_dist.doctor.findings import Check, Status
from unipool_dist.doctor.measurement import Probe

_MIN_FREE_BYTES = 1e9


@dataclass(frozen=True)
class CheckpointNeed:
    """Bytes that checkpoints of a configuration take."""

    bytes_each: int
    num_kept: int
    """The largest number of checkpoints at a time, including one that is being written."""
    num_there: int = 0
    """Number already in the run directory."""
    note: str = ""
    """What is not counted, to be appended to the figure."""


def judge_space(path: Path, free: int, total: int, need: CheckpointNeed | None) -> Check:
    """Judge whether ``free`` bytes are enough: for one checkpoint at least, and for all that are to be kept. Pure."""
    status: Status = "ok"
    advice, expected = "", size(_MIN_FREE_BYTES)
    figures: dict[str, float] = {"free_bytes": free, "total_bytes": total}
    if need is None:
        if free < _MIN_FREE_BYTES:
            status, advice = "warn", f"little room is left in {path}; give a CONFIG to see what its checkpoints need"
    else:
        more = max(1, need.num_kept - need.num_there)
        expected = f"{size(more * need.bytes_each)} for {counted(more, 'checkpoint')}{need.note}"
        figures |= {"checkpoint_bytes": need.bytes_each, "checkpoints_to_come": more}
        if free < need.bytes_each:
            status, advice = "fail", "not one checkpoint can be saved; make room, or choose another run.dir"
        elif free < more * need.bytes_each:
            status = "warn"
            advice = (
                "the disk will be full before the run ends; make room, or keep fewer: a low checkpoint.keep_last (0 "
                "keeps all), a high checkpoint.keep_every (0 keeps none)"
            )
    return Check(
        "free space",
        status,
        size(free),
        expected,
        advice,
        free,
        "bytes",
        figures,
    )


@dataclass(frozen=True)
class Space:
    """Bytes of the file system, as rank 0 sees it."""

    free: int
    total: int


class FreeSpace(Probe[Space]):
    """Free space of the run directory, or of its nearest existing parent if it cannot be made."""

    name = "free space"
    measured = Space

    def __init__(self, run_dir: Path, need: CheckpointNeed | None) -> None:
        self._path, self._need = run_dir.absolute(), need

    def measure(self, brief: str) -> Space:
        there = next(path for path in (self._path, *self._path.parents) if path.exists())
        usage = shutil.disk_usage(there)
        return Space(usage.free, usage.total)

    def judge(self, measured: Sequence[Space]) -> list[Check]:
        return [judge_space(self._path, measured[0].free, measured[0].total, self._need)]
