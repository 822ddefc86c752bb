"""Tensors inside the files of torch.distributed.checkpoint, found without unpickling anything.

A file is a row of records, each what ``torch.save`` writes for one tensor: a zip archive whose member ``data/0`` holds
the elements, uncompressed. Type and shape are in the checkpoint's index.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unipool_dist.errors import CheckpointError

_LOCAL_HEADER = struct.Struct("<26xHH")  # of it only the lengths of the two fields that follow it


class RecordFile:
    """A file of records. Elements are read straight to their place: mapping the file would cost several times more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)

    def close(self) -> None:
        self._file.close()

    def start_of(self, offset: int, length: int, num_bytes: int) -> int:
        """Return the offset in the file of the elements in the record of ``length`` bytes at ``offset``.

        Raises:
            CheckpointError: there is no such record, or it holds another number of bytes than ``num_bytes``.
        """
        try:
            with zipfile.ZipFile(_Window(self._file.fileno(), offset, length)) as archive:
                member = next(item for item in archive.infolist() if item.filename.endswith("/data/0"))
            header = offset + member.header_offset
            name_length, extra_length = _LOCAL_HEADER.unpack(os.pread(self._file.fileno(), _LOCAL_HEADER.size, header))
        except (zipfile.BadZipFile, StopIteration, struct.error, ValueError, OSError) as error:
            raise CheckpointError(f"{self._path} has no tensor at byte {offset}: {error}") from None
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != num_bytes:
            raise CheckpointError(
                f"{self._path} has {member.file_size} bytes of a tensor at byte {offset}, not the {num_bytes} in the "
                f"index"
            )
        return header + _LOCAL_HEADER.size + name_length + extra_length

    def read(self, start: int, target: Tensor) -> None:
        """Fill ``target``, contiguous and in host memory, with the bytes from ``start`` on.

        Raises:
            CheckpointError: the file ends before.
        """
        rest = target.view(-1).view(torch.uint8).numpy().data
        while rest:
            count = os.preadv(self._file.fileno(), [rest], start)
            if count == 0:
                raise CheckpointError(f"{self._path} ends at byte {start}, inside a tensor")
            rest, start = rest[count:], start + count


def read_part(
    file: RecordFile,
    offset: int,
    length: int,
    whole: Tensor,
    part: Tensor,
    target: Tensor,
) -> None:
    """Read part of the tensor in the record of ``length`` bytes at ``offset`` into ``target``.

    ``whole`` is a contiguous tensor without storage (device "meta") of the record's type and shape, ``part`` a view of
    it of ``target``'s shape.

    Raises:
        CheckpointError: the record is not there, or not of this size.
    """
    itemsize = whole.dtype.itemsize
    start = file.start_of(offset, length, whole.numel() * itemsize)
    if part.numel() == 0:
        return
    first = start + int(part.storage_offset()) * itemsize
    fits = (
        part.is_contiguous() and target.is_contiguous() and target.dtype == part.dtype and target.device.type == "cpu"
    )
    if fits:
        file.read(first, target)
        return
    span = 1 + sum((size - 1) * stride for size, stride in zip(part.shape, part.stride(), strict=True))
    values = torch.empty(span, dtype=part.dtype)
    file.read(first, values)
    target.copy_(values.as_strided(part.shape, part.stride()))


class _Window(io.RawIOBase):
    """A range of a file as a file of its own."""

    def __init__(self, descriptor: int, start: int, length: int) -> None:
        self._descriptor, self._start, self._length, self._position = descriptor, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        if origin + offset < 0:
            raise OSError("before the start")
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._length - self._position))
        found = os.pread(self._descriptor, count, self._start + self._position)
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)
