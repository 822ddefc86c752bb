"""Read whole untrusted files: regular files only, of bounded size and depth.

A pipe or a device could block or never end, a huge file would fill the memory, and nested brackets exhaust the
interpreter's stack. All are refused before anything is parsed.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

MAX_TEXT_BYTES = 64 << 20
"""Far above any manifest or record that this program writes."""
MAX_LINE_BYTES = 16 << 20
MAX_DEPTH = 64
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.S)


class UnsafeFileError(ValueError):
    """A file is not regular, or too large or too deeply nested to be what it claims to be."""


def read_bytes(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Return the content of a regular file of at most ``max_bytes``.

    Links are followed; their target must be a regular file.

    Raises:
        OSError: it is missing or cannot be read.
        UnsafeFileError: it is not a regular file, or larger.
    """
    with open_regular(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise UnsafeFileError(f"it has more than {max_bytes:,} bytes")
    return data


def read_text(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return the content of a regular file as UTF-8 text; see :func:`read_bytes`.

    Raises:
        OSError: it is missing or cannot be read.
        ValueError: it is not UTF-8, not a regular file, or larger.
    """
    return read_bytes(path, max_bytes=max_bytes).decode("utf-8")


def read_json(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> Any:
    """Parse a regular file as JSON.

    Raises:
        OSError: it is missing or cannot be read.
        ValueError: it is not JSON, too deeply nested, or refused by :func:`read_bytes`.
    """
    return parse_json(read_text(path, max_bytes=max_bytes))


def read_lines(path: Path, *, max_bytes: int = MAX_LINE_BYTES) -> Iterator[str]:
    """Yield the lines of a regular file of UTF-8 text, without their ends.

    An incomplete last line, left by a crash, is skipped. The file may be of any length, a line may not.

    Raises:
        OSError: it is missing or cannot be read.
        ValueError: it is not UTF-8, not a regular file, or a line has more than ``max_bytes``.
    """
    with open_regular(path) as file:
        while (line := file.readline(max_bytes + 1)).endswith(b"\n"):
            yield line[:-1].decode("utf-8")
        if len(line) > max_bytes:
            raise UnsafeFileError(f"it has a line of more than {max_bytes:,} bytes")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON of at most ``MAX_DEPTH`` nested brackets.

    Raises:
        ValueError: it is not JSON, or nested more deeply.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    depth = 0
    for bracket in re.findall(r"[\[{\]}]", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise UnsafeFileError(f"its brackets are nested more than {MAX_DEPTH} deep")
    return json.loads(text)


def open_regular(path: Path) -> Any:
    """Open a regular file for reading bytes; never blocks, whatever ``path`` is.

    Raises:
        OSError: it is missing or cannot be read.
        UnsafeFileError: it is a folder, pipe, socket or device.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # NUL or a lone surrogate in the name
        raise UnsafeFileError(f"its name cannot be used: {error}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnsafeFileError("it is not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def record_of(kind: type[T], values: object) -> T:
    """Make a ``kind``, a dataclass, from ``values``.

    Raises:
        ValueError: ``values`` is not a dictionary, or a field is missing, unknown or of another type.
    """
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(values, dict) or not values.keys() <= names:
        raise ValueError(f"it is not a record with the fields {', '.join(sorted(names))}")
    made: T = _adapter(kind).validate_python(values)  # type: ignore[arg-type]
    return made  # errors of pydantic are ValueErrors


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter  # here, as most readers of files need none

    return TypeAdapter(kind)
