"""Write one checkpoint: whole, hashed and on disk, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.utils.serialization import config as serialization_config

from unipool_dist.base.writing import flush, write_durably
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.manifest import (
    CONFIG_FILE,
    INDEX_FILE,
    MANIFEST_FILE,
    STATE_FILE,
    FileRecord,
    Manifest,
    hash_file,
)
from unipool_dist.checkpoint.pieces import Piece
from unipool_dist.checkpoint.planners import PieceSavePlanner
from unipool_dist.checkpoint.progress import Progress
from unipool_dist.checkpoint.shares import Write
from unipool_dist.checkpoint.storage import HashingWriter
from unipool_dist.checkpoint.transfer import Buffers, collect_pieces
from unipool_dist.comm.agreement import failing_together
from unipool_dist.config import Config, dump_config
from unipool_dist.errors import CheckpointError

_BOX_BYTES = 2048  # of a box on disk, in addition to its elements: a little less


def write_checkpoint(
    directory: CheckpointDirectory,
    progress: Progress,
    config: Config,
    writes: list[Write],
    values: Callable[[Piece], Tensor],
    buffers: Buffers,
    group: dist.ProcessGroup,
) -> int:
    """Write the checkpoint of ``progress.step``; return its bytes on disk.

    Args:
        writes: which rank writes what, the same on every rank.
        values: returns the elements of a piece that this rank holds, on the CPU; they must not change meanwhile.
        buffers: see :func:`~unipool_dist.checkpoint.transfer.receive_buffers`.

    Collectives, over ``group`` (gloo, all ranks): agreement on the folder; point-to-point messages for pieces that
    move; those of torch.distributed.checkpoint.save; all_gather_object of the files' hashes; agreement on the commit.

    Raises:
        CheckpointError: on every rank, if any of them could not write; only the older checkpoints are left.
    """
    step, rank = progress.step, group.rank()
    draft = directory.draft(step)
    try:
        with failing_together(f"making {draft}", group):
            if rank == 0:
                _require_run(directory.path.parent)
                directory.begin(step)
                _require_room(draft, writes)
        pieces = collect_pieces(writes, values, buffers, group)
        writer = HashingWriter(draft)
        # The files are hashed anyway, and a second checksum in them takes longer than writing them.
        with serialization_config.patch({"save.compute_crc32": False}):  # type: ignore[attr-defined]
            dcp.save({}, storage_writer=writer, planner=PieceSavePlanner(pieces), process_group=group)
        written: list[Any] = [None] * group.size()
        dist.all_gather_object(written, writer.written, group)
        files: dict[str, FileRecord] = {name: record for records in written for name, record in records.items()}
        with failing_together(f"committing {draft}", group):
            if rank == 0:
                commit_draft(directory, progress, config, files)
    except CheckpointException as error:
        if rank == 0:
            directory.abandon(step)
        raise CheckpointError(_describe(step, draft, error)) from None
    except Exception:  # whatever the writer raised, no draft may be left
        if rank == 0:
            directory.abandon(step)
        raise
    return sum(record.num_bytes for record in files.values())


def _require_run(run_dir: Path) -> None:
    """Refuse to recreate a run directory that was moved or deleted: nobody would look for it there."""
    if not run_dir.is_dir():
        raise CheckpointError(
            f"{run_dir} is gone: it was deleted, or has another name now. If that can be undone, do it, and the next "
            f"checkpoint will be there"
        )


def _require_room(draft: Path, writes: list[Write]) -> None:
    """Refuse at once a save that would only fill the disk, where other records of the run could not be written then."""
    needed = sum(write.piece.num_bytes + _BOX_BYTES * len(write.piece.boxes()) for write in writes)
    usage = shutil.disk_usage(draft)
    if usage.free < needed and usage.total > 0:  # a file system may not know
        raise CheckpointError(
            f"{draft.parent} has {usage.free / 1e6:,.1f} MB left and a checkpoint needs {needed / 1e6:,.1f} MB; make "
            f"room"
        )


def commit_draft(
    directory: CheckpointDirectory, progress: Progress, config: Config, files: dict[str, FileRecord]
) -> None:
    """Add the other files to the draft, and the manifest of all its files; then make it the checkpoint."""
    draft = directory.draft(progress.step)
    write_durably(draft / STATE_FILE, progress.dump())
    dump_config(config, draft / CONFIG_FILE)
    for name in (CONFIG_FILE, INDEX_FILE):
        flush(draft / name)
    small = {name: hash_file(draft / name) for name in (STATE_FILE, CONFIG_FILE)}
    write_durably(draft / MANIFEST_FILE, Manifest(progress.step, files | small).dump())
    directory.commit(progress.step)


def _describe(step: int, draft: Path, error: CheckpointException) -> str:
    rank, (cause, _) = next(iter(sorted(error.failures.items())))
    return (
        f"the checkpoint of step {step} could not be written: rank {rank}: {type(cause).__name__}: {cause}; "
        f"make room or repair the file system of {draft.parent}"
    )
