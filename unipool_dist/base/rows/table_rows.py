"""Parquet and Arrow files: one column of strings is read, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from unipool_dist.base.reading import UnsafeFileError
from unipool_dist.base.rows.frames import Fault, Rows, text_or_fault, without_field
from unipool_dist.base.rows.opening import MAX_ROW_BYTES, opened, opened_on_disk
from unipool_dist.base.rows.text_rows import checked

_BATCH = 256  # rows
_BUFFER = 1 << 20
_MAGIC = b"ARROW1\0\0"


def parquet_rows(path: Path, codec: str | None, field: str) -> Rows:
    """Yield the text of every row.

    Raises:
        OSError, ValueError: it cannot be read, or has no such column.
    """
    import pyarrow.parquet as pq

    with opened_on_disk(path, codec) as file, pq.ParquetFile(file, buffer_size=_BUFFER) as table:
        _position(table.schema_arrow, field)
        batches = table.iter_batches(_BATCH, columns=[field], use_threads=False)
        yield from _rows((batch.column(_position(batch.schema, field)) for batch in batches), field)


def arrow_rows(path: Path, codec: str | None, field: str) -> Rows:
    """Yield the text of every row of an Arrow stream, or of an Arrow file, which holds one between magic and footer.

    Raises:
        OSError, ValueError: it cannot be read, or has no such column.
    """
    import pyarrow as pa

    with opened(path, codec) as stream:
        position = _position(_schema(pa, stream), field)
    options = pa.ipc.IpcReadOptions(included_fields=[position], use_threads=False)
    with opened(path, codec) as stream:
        batches = pa.ipc.open_stream(_after_magic(stream), options=options)
        yield from _rows((batch.column(0) for batch in batches), field)


def _schema(pa: Any, stream: BinaryIO) -> Any:
    return pa.ipc.open_stream(_after_magic(stream)).schema


def _after_magic(stream: BinaryIO) -> BinaryIO:
    peeked = stream.peek(len(_MAGIC))[: len(_MAGIC)]  # type: ignore[attr-defined]
    if peeked == _MAGIC:
        stream.read(len(_MAGIC))
    return stream


def _position(schema: Any, field: str) -> int:
    """Return the position of the only column called ``field``."""
    positions = schema.get_all_field_indices(field)
    if len(positions) > 1:
        raise ValueError(f"it has {len(positions)} columns called {field!r}")
    if not positions:
        raise ValueError(f"it {without_field(field, iter(schema.names)).detail}")
    return int(positions[0])


def _rows(columns: Iterator[Any], field: str) -> Rows:
    """Yield the texts of a column that comes in pieces."""
    import pyarrow as pa

    number = 0
    for column in columns:
        for start in range(0, len(column), _BATCH):
            piece = column.slice(start, _BATCH)
            if pa.types.is_dictionary(piece.type):
                piece = piece.dictionary_decode()
            kind = str(piece.type)
            if any(
                is_one(piece.type) for is_one in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
            ):
                texts = piece.cast(pa.large_binary()).to_pylist()  # bytes, as they may not be UTF-8
            else:
                texts = [value.is_valid or None for value in piece]
            for text in texts:
                number += 1
                yield number, _text(text, field, kind, number)


def _text(text: bytes | bool | None, field: str, kind: str, number: int) -> bytes | Fault:
    if not isinstance(text, bytes):
        return text_or_fault(text, field, f"a value of type {kind[:60]}")
    if len(text) > MAX_ROW_BYTES:
        raise UnsafeFileError(f"row {number:,} has more than {MAX_ROW_BYTES:,} bytes")
    return checked(text)
