"""Text files: each is one document."""

from __future__ import annotations

from codecs import getincrementaldecoder
from pathlib import Path

from unipool_dist.base.rows.frames import Fault, Rows
from unipool_dist.base.rows.opening import MAX_TEXT_BYTES, opened, read_at_most

_MARK = b"\xef\xbb\xbf"
_PIECE = 1 << 20


def text_rows(path: Path, codec: str | None) -> Rows:
    """Yield the file's text, byte for byte but for the mark of a UTF-8 file.

    Raises:
        OSError, UnsafeFileError: it cannot be read, or is larger than a document may be.
    """
    with opened(path, codec) as stream:
        data = read_at_most(stream, MAX_TEXT_BYTES).removeprefix(_MARK)
    yield 1, checked(data)


def checked(data: bytes) -> bytes | Fault:
    """Return ``data``, or a fault if it is not UTF-8."""
    decoder = getincrementaldecoder("utf-8")()
    for start in range(0, len(data), _PIECE):  # in pieces, as one odd character makes a string four times as large
        piece = data[start : start + _PIECE]
        try:
            decoder.decode(piece, final=start + _PIECE >= len(data))
        except UnicodeDecodeError as error:  # its object begins with what was left of the piece before
            at = start + len(piece) - len(error.object) + error.start
            line = data.count(b"\n", 0, at) + 1
            return Fault("undecodable", f"cannot be read as UTF-8: byte 0x{data[at]:02x} in line {line:,} of the text")
    return data
