"""JSON files: an object per line, objects one after another, or one array of objects or of texts."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from unipool_dist.base.reading import UnsafeFileError
from unipool_dist.base.rows.frames import Fault, Rows, text_or_fault, without_field
from unipool_dist.base.rows.opening import MAX_ROW_BYTES, lines_of, opened

MAX_DEPTH = 200
_PIECE = 1 << 16  # characters
_BLANK = " \t\r\n"
_KINDS = {dict: "an object", list: "a list", bool: "true or false"}
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


class _Number:
    """A number of a row, which nobody looks at: one of a million digits would take minutes to convert."""

    def __init__(self, text: str) -> None:
        pass


_decoder = json.JSONDecoder(parse_int=_Number, parse_float=_Number, parse_constant=_Number, strict=False)


def json_rows(path: Path, codec: str | None, field: str, *, lines: bool) -> Rows:
    """Yield the text of every object.

    Numbers are those of the lines if there is an object per line, else those of the objects.

    Args:
        lines: the file says by its name that there is an object per line. Otherwise its first line shows whether
            there is.

    Raises:
        OSError, UnsafeFileError: it cannot be read, or an object is larger than a row may be.
        ValueError: there is not an object per line, and what comes next is not JSON.
    """
    with opened(path, codec) as stream:
        first = None
        if not _begins_array(stream):
            numbered = lines_of(stream)
            first = next(numbered, None)
            if first is None:
                return
            if lines or not isinstance(_parsed(first[1]), Fault):
                for number, line in chain([first], numbered):
                    yield number, _text(_parsed(line), field)
                return
        for number, value in enumerate(_values(first[1] if first else b"", stream), 1):
            text = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else _text(value, field)
            yield number, text


def _begins_array(stream: BinaryIO) -> bool:
    """Tell whether an array of objects or texts comes first; it may be one line, and too long to be read as one."""
    start = stream.peek(1).removeprefix(b"\xef\xbb\xbf").lstrip()  # type: ignore[attr-defined]
    return start[:1] == b"[" and start[1:].lstrip()[:1] in (b"{", b'"', b"]", b"")


def _parsed(line: bytes) -> Any:
    """Return the value that a line holds, or a fault."""
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and _depth(line) > MAX_DEPTH:
        return Fault("undecodable", f"has brackets nested more than {MAX_DEPTH} deep")
    try:
        return _decoder.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Fault("undecodable", f"cannot be read as UTF-8: byte 0x{line[error.start]:02x} at {error.start:,}")
    except ValueError as error:
        return Fault("undecodable", f"cannot be read as JSON: {error}")


def _text(value: Any, field: str) -> bytes | Fault:
    if isinstance(value, Fault):
        return value
    if not isinstance(value, dict):
        return Fault("undecodable", f"cannot be read as a row: it is {_kind(value)}, and no object")
    if field not in value:
        return without_field(field, iter(value))
    return text_or_fault(value[field], field, _kind(value[field]))


def _kind(value: object) -> str:
    if value is None or isinstance(value, str):
        return "null" if value is None else "a string"
    return _KINDS.get(type(value), "a number")


def _depth(text: bytes) -> int:
    """Return how deeply brackets are nested, those in strings not counted."""
    import numpy as np

    steps = np.zeros(256, dtype=np.int64)
    steps[[ord("["), ord("{")]], steps[[ord("]"), ord("}")]] = 1, -1
    text = text.replace(rb"\\", b"").replace(rb"\"", b"")
    brackets = b"".join(text.split(b'"')[::2]).translate(None, _OTHERS)
    depths = np.cumsum(steps[np.frombuffer(brackets, dtype=np.uint8)])
    return int(depths.max(initial=0))


def _values(first: bytes, stream: BinaryIO) -> Iterator[Any]:
    """Yield the values that follow one another in ``first`` and ``stream``; of an array, its elements."""
    characters = io.TextIOWrapper(io.BufferedReader(_Joined(first, stream)), encoding="utf-8-sig", newline="")
    buffer = _Buffer(characters)
    if buffer.next() != "[":
        while buffer.next():
            yield buffer.value()
        return
    buffer.skip()
    if buffer.next() == "]":
        buffer.skip()
    else:
        while True:
            yield buffer.value()
            after = buffer.next()
            buffer.skip()
            if after == "]":
                break
            if after != ",":
                raise ValueError(f"its array goes on with {after!r} instead of a comma")
    if buffer.next():
        raise ValueError("something follows its array")


class _Joined(io.RawIOBase):
    """The bytes ``first``, then those of ``stream``."""

    def __init__(self, first: bytes, stream: BinaryIO) -> None:
        self._first, self._stream = first, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._first[: len(buffer)] or self._stream.read(len(buffer))
        self._first = self._first[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


class _Buffer:
    """A window on a stream of characters, from which whole values are taken."""

    def __init__(self, characters: io.TextIOWrapper) -> None:
        self._characters, self._text, self._at, self._ended = characters, "", 0, False

    def next(self) -> str:
        """Return the next character that is not blank, without taking it; nothing at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _BLANK:
                    return self._text[self._at]
                self._at += 1
            if not self._more(_PIECE):
                return ""

    def skip(self) -> None:
        """Take the character that :meth:`next` returned."""
        self._at += 1

    def value(self) -> Any:
        """Take the next value.

        Raises:
            UnsafeFileError: it is larger than a row may be, or nested too deeply.
            ValueError: it is not JSON, or not UTF-8.
        """
        self.next()
        while True:
            try:
                value, end = _decoder.raw_decode(self._text, self._at)
                # A number at the end of what was read may go on.
                if end < len(self._text) or not self._more(_PIECE):
                    self._at = end
                    return value
            except RecursionError:
                raise UnsafeFileError(f"it has brackets nested more than {MAX_DEPTH} deep") from None
            except ValueError as error:
                size = len(self._text) - self._at
                if size > MAX_ROW_BYTES:
                    raise UnsafeFileError(f"it has a value of more than {MAX_ROW_BYTES:,} characters") from None
                if not self._more(max(size, _PIECE)):  # twice as much, or values would be read again and again
                    raise ValueError(f"it is not JSON: {getattr(error, 'msg', error)}") from None

    def _more(self, count: int) -> bool:
        """Read ``count`` characters, without those already taken; return whether there were any."""
        piece = self._characters.read(count) if not self._ended else ""
        self._ended = not piece
        if piece:
            self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)
