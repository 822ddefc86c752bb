"""Tensors inside the files of torch.distributed.checkpoint, found without unpickling anything.

A file is a row of records, each what ``torch.save`` writes for one tensor: a zip archive whose member ``data/0`` holds
the elements, uncompressed. Type and shape are in the checkpoint's index.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unipool_dist.errors import CheckpointError

_LOCAL_HEADER = struct.Struct("<26xHH")  # of it only the lengths of the two fields that follow it


class RecordFile:
    """A file of records, mapped into memory: tensors are views of the page cache, to be copied and not written to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")

    def tensor(self, offset: int, length: int, dtype: torch.dtype, shape: torch.Size) -> Tensor:
        """The contiguous tensor in the record of ``length`` bytes at ``offset``.

        Raises:
            CheckpointError: there is no such record, or it holds another number of bytes.
        """
        wanted = math.prod(shape) * dtype.itemsize
        try:
            with zipfile.ZipFile(_Window(self._bytes[offset : offset + length].data)) as archive:
                member = next(item for item in archive.infolist() if item.filename.endswith("/data/0"))
            header = offset + member.header_offset
            name_length, extra_length = _LOCAL_HEADER.unpack_from(self._bytes.data, header)
        except (zipfile.BadZipFile, StopIteration, struct.error, ValueError, OSError) as error:
            raise CheckpointError(f"{self._path} has no tensor at byte {offset}: {error}") from None
        start = header + _LOCAL_HEADER.size + name_length + extra_length
        if (
            member.compress_type != zipfile.ZIP_STORED
            or member.file_size != wanted
            or start + wanted > len(self._bytes)
        ):
            raise CheckpointError(
                f"{self._path} has {member.file_size} bytes of a tensor at byte {offset}, not the {wanted} in the index"
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(self._bytes[start : start + wanted]).view(dtype).view(shape)


class _Window(io.RawIOBase):
    """Bytes in memory as a file, without a copy of them."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._position = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._data)}[whence]
        if start + offset < 0:
            raise OSError("before the start")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        found = self._data[self._position : self._position + len(buffer)]
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)
