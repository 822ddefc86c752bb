"""Write a checkpoint in a single process, box by box, from any source of values: whole or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future
from torch.utils.serialization import config as serialization_config

from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.offline.tensor_reader import alone
from unipool_dist.checkpoint.pieces import Piece
from unipool_dist.checkpoint.planners import PieceSavePlanner
from unipool_dist.checkpoint.progress import Progress
from unipool_dist.checkpoint.save import commit_draft
from unipool_dist.checkpoint.storage import HashingWriter
from unipool_dist.config import Config
from unipool_dist.errors import CheckpointError

Read = Callable[[Piece, Tensor], None]
"""A function that writes the elements of a piece into a tensor, one-dimensional and of the piece's type."""


def rewrite_checkpoint(
    directory: CheckpointDirectory,
    progress: Progress,
    config: Config,
    files: Sequence[Sequence[Piece]],
    read: Read,
) -> int:
    """Write the checkpoint of ``progress.step``; return the bytes of its tensor files and index.

    The process holds one box at a time in memory.

    Args:
        files: the content of each file, named as if one rank had written it; each piece is one box.
        read: called once for each piece.

    Raises:
        CheckpointError: it could not be written; nothing is left of it.
    """
    draft = directory.draft(progress.step)
    try:
        directory.begin(progress.step)
        writer = _FileByFileWriter(draft, files)
        planner = _ReadingPlanner([piece for file in files for piece in file], read)
        # Without torch's own checksum, as the files are hashed anyway.
        with alone(), serialization_config.patch({"save.compute_crc32": False}):  # type: ignore[attr-defined]
            dcp.save({}, storage_writer=writer, planner=planner, no_dist=True)
        commit_draft(directory, progress, config, writer.written)
    except BaseException as error:
        directory.abandon(progress.step)
        if isinstance(error, OSError | RuntimeError):
            raise CheckpointError(
                f"the checkpoint of step {progress.step} could not be written: {type(error).__name__}: {error}; make "
                f"room or repair the file system of {draft.parent}"
            ) from error
        raise
    return sum(record.num_bytes for record in writer.written.values())


class _ReadingPlanner(PieceSavePlanner):
    """A planner that reads a box when it is to be written, not before, into memory that all boxes share."""

    def __init__(self, pieces: Sequence[Piece], read: Read) -> None:
        super().__init__(
            [(piece, torch.empty(piece.numel, dtype=getattr(torch, piece.dtype), device="meta")) for piece in pieces]
        )
        self._pieces = {(piece.key, piece.shard_offset): piece for piece in pieces}
        self._read = read
        self._buffer = torch.empty(max(piece.num_bytes for piece in pieces), dtype=torch.uint8)

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        piece = self._pieces[_place(write_item)]
        values = self._buffer[: piece.num_bytes].view(getattr(torch, piece.dtype))
        self._read(piece, values)
        # By way of numpy the tensor's storage is the box alone: of a larger one the writer would make a copy, and keep
        # all copies until the file is done.
        return torch.from_numpy(values.numpy()).view(piece.shard_shape)


class _FileByFileWriter(HashingWriter):
    """A writer of the given files, one after the other, under the names that as many ranks would have used.

    Not as threads of one FileSystemWriter, which loses their errors and deals boxes out by the size of whole tensors.
    """

    def __init__(self, path: Path, files: Sequence[Sequence[Piece]]) -> None:
        super().__init__(path)
        self._file_of = {(piece.key, piece.shard_offset): number for number, file in enumerate(files) for piece in file}
        self._num_files = len(files)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        items: list[list[WriteItem]] = [[] for _ in range(self._num_files)]
        for item in plan.items:
            items[self._file_of[_place(item)]].append(item)
        results: list[WriteResult] = []
        for number, of_file in enumerate(items):
            prefix = dataclasses.replace(plan.storage_data, prefix=f"__{number}_")
            part = dataclasses.replace(plan, items=of_file, storage_data=prefix)
            results += super().write_data(part, planner).wait()
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future


def _place(item: WriteItem) -> tuple[str, tuple[int, ...]]:
    assert item.index.offset is not None
    return item.index.fqn, tuple(item.index.offset)
