"""Read tensors of a checkpoint in a single process, as many at a time as fit."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from unipool_dist.checkpoint.index import read_index
from unipool_dist.checkpoint.manifest import read_manifest
from unipool_dist.checkpoint.pieces import Piece, Shape, whole
from unipool_dist.checkpoint.planners import PieceLoadPlanner
from unipool_dist.checkpoint.storage import SafeReader
from unipool_dist.errors import CheckpointError


@dataclass(frozen=True)
class TensorInfo:
    """The entry of a tensor in a checkpoint's index."""

    name: str
    shape: Shape
    dtype: str
    num_chunks: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.numel * np.dtype(self.dtype).itemsize

    @property
    def piece(self) -> Piece:
        """All of it."""
        return whole(self.name, self.shape, self.dtype)


class TensorReader:
    """The tensors of the checkpoint in ``folder``. Nothing in its files is ever executed.

    Raises:
        CheckpointError: the manifest or the index cannot be read, or the index asks for what it has no use for.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reader = SafeReader(folder, read_index(folder, read_manifest(folder).files))
        index = self._reader.read_metadata().state_dict_metadata
        self.tensors = {name: _info(folder, name, saved) for name, saved in sorted(index.items())}

    def whole(self, tensor: TensorInfo) -> Tensor:
        """Read all of a tensor, in its shape.

        Raises:
            CheckpointError: as of :meth:`read`.
        """
        values = torch.empty(tensor.numel, dtype=getattr(torch, tensor.dtype))
        self.read(tensor.piece, values)
        return values.view(tensor.shape)

    def read(self, piece: Piece, values: Tensor) -> None:
        """Read the elements of ``piece`` into ``values``, one-dimensional.

        Raises:
            CheckpointError: they are not there, or their file cannot be read.
        """
        try:
            with alone():
                dcp.load({}, storage_reader=self._reader, planner=PieceLoadPlanner([(piece, values)]), no_dist=True)
        except CheckpointError:
            raise
        except Exception as error:  # a file can be damaged in any way
            raise CheckpointError(
                f"{piece.key} cannot be read from {self._folder}: {type(error).__name__}: {error}; restore the files"
            ) from error


@contextmanager
def alone() -> Iterator[None]:
    """Use torch.distributed.checkpoint in one process: without its warning about that, with errors as raised."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)
        try:
            yield
        except CheckpointException as error:
            cause, _ = next(iter(error.failures.values()))
            raise cause from None


def _info(folder: Path, name: str, saved: Any) -> TensorInfo:
    if not isinstance(saved, TensorStorageMetadata):
        raise CheckpointError(f"{name} in {folder} is not a tensor: this is not a checkpoint of unipool_dist")
    return TensorInfo(name, tuple(saved.size), str(saved.properties.dtype).removeprefix("torch."), len(saved.chunks))
