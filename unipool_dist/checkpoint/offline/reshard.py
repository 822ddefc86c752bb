"""Rewrite a checkpoint in another number of files."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from unipool_dist.base.belongings import exists
from unipool_dist.base.progress_bars import Bar, no_bar
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.offline.cuts import cut_into_files
from unipool_dist.checkpoint.offline.locate import Located
from unipool_dist.checkpoint.offline.rewrite import rewrite_checkpoint
from unipool_dist.checkpoint.offline.tensor_reader import TensorReader
from unipool_dist.checkpoint.pieces import Piece
from unipool_dist.errors import CheckpointError

SMALLEST_FILE = 64 << 10
"""Bytes of tensors; a smaller file would be mostly what torch.save adds."""


def reshard(located: Located, run_dir: Path, num_files: int, bar: Bar = no_bar) -> CheckpointDirectory:
    """Write the checkpoint into ``run_dir`` with its tensors in ``num_files`` files, equal to within 10 %.

    Names, values, progress and configuration stay as they are. The process holds one box of a tensor at a time.

    Args:
        located: verified by :func:`unipool_dist.checkpoint.offline.locate.check_contents`.
        run_dir: locked by the caller.

    Raises:
        CheckpointError: there is a checkpoint of this step already, there are too many files for so few bytes, or
            reading or writing failed; then nothing is left of it.
    """
    check_step_is_free(located, run_dir)
    directory = CheckpointDirectory(run_dir)
    reader = TensorReader(located.folder)
    total = sum(tensor.num_bytes for tensor in reader.tensors.values())
    most = max(1, total // SMALLEST_FILE)
    if num_files > most:
        raise CheckpointError(
            f"--files {num_files} would make files of less than {SMALLEST_FILE >> 10} KiB; choose at most {most}"
        )
    files = cut_into_files([tensor.piece for tensor in reader.tensors.values()], num_files)
    with bar("copying", total) as count:

        def read(piece: Piece, values: Tensor) -> None:
            reader.read(piece, values)
            count(piece.num_bytes)

        rewrite_checkpoint(directory, located.progress, located.config, files, read)
    return directory


def check_step_is_free(located: Located, run_dir: Path) -> None:
    """Refuse a run directory that has a checkpoint of this step.

    Raises:
        CheckpointError: it has.
    """
    folder = CheckpointDirectory(run_dir).folder(located.progress.step)
    if exists(folder):
        raise CheckpointError(f"{folder} exists already; choose another directory")
