"""Open a file for the parsers: a regular one, decompressed in pieces."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from unipool_dist.base.reading import UnsafeFileError, open_regular

MAX_ROW_BYTES = 64 << 20
"""Of a line, or of a text in a table: far above any document, far below what fills a machine."""
MAX_TEXT_BYTES = (1 << 31) - 1
"""Of a text file, which is one document, as it is read or decompressed."""
_BUFFER = 1 << 20
_MAX_RATIO = 1000
"""Of a table file that is compressed once more as a whole, which has to be unpacked on disk: they hardly shrink."""


@contextmanager
def opened(path: Path, codec: str | None) -> Iterator[BinaryIO]:
    """Open the file as a stream of bytes, decompressed if ``codec`` is ``gzip`` or ``zstd``.

    Raises:
        OSError: it cannot be read; while reading, its compression is damaged or ends too soon.
        UnsafeFileError: it is not a regular file.
    """
    with open_regular(path) as file:
        if codec is None:
            yield file
            return
        import pyarrow as pa

        with pa.CompressedInputStream(pa.PythonFile(file, "r"), codec) as unpacked:
            yield io.BufferedReader(unpacked, _BUFFER)


@contextmanager
def opened_on_disk(path: Path, codec: str | None) -> Iterator[BinaryIO]:
    """Open the file for reading anywhere in it; a compressed one is unpacked into an unnamed temporary file.

    Raises:
        OSError: it cannot be read, is damaged, or the disk is full.
        UnsafeFileError: it is not a regular file, or is a thousand times as large unpacked.
    """
    with opened(path, codec) as stream:
        if codec is None:
            yield stream
            return
        most = _MAX_RATIO * os.stat(path).st_size
        with tempfile.TemporaryFile() as whole:
            while piece := stream.read(_BUFFER):
                if whole.tell() + len(piece) > most:
                    raise UnsafeFileError(f"it unpacks to more than {_MAX_RATIO} times its size")
                whole.write(piece)
            whole.seek(0)
            yield cast(BinaryIO, whole)


def read_at_most(stream: Any, most: int) -> bytes:
    """Read the stream to its end.

    Raises:
        UnsafeFileError: it has more than ``most`` bytes.
    """
    pieces, total = [], 0
    while piece := stream.read(_BUFFER):
        pieces.append(piece)
        total += len(piece)
        if total > most:
            raise UnsafeFileError(f"it has more than {most:,} bytes, and is one document: cut it into several files")
    return b"".join(pieces)


def lines_of(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the bytes of every line that is not blank, without the mark of a UTF-8 file.

    Raises:
        UnsafeFileError: a line has more than ``MAX_ROW_BYTES``.
    """
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES:
            raise UnsafeFileError(f"line {number:,} has more than {MAX_ROW_BYTES:,} bytes")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.isspace():
            yield number, line
