"""Writing files atomically, or durably.

Atomically: under the name is the old content or the new, even after an interruption. Durably: the file or name survives
a power cut once the function has returned.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

DRAFT_NAME = re.compile(r"\.(.+)\.[0-9a-f]{12}\.new")
"""Names of the files that are written to replace another, whose name is the group."""


def replace_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Replace the content of ``path`` with ``text`` in UTF-8; see :func:`replace_bytes`."""
    replace_bytes(path, text.encode("utf-8"), mode=mode)


def replace_bytes(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Replace the content of ``path`` with ``data``; a link of that name is replaced, not followed.

    The data is first written next to it under a unique name, so that no other file is touched.

    Args:
        mode: permissions, less the umask.

    Raises:
        OSError: it cannot be written; then ``path`` is unchanged.
    """
    draft = path.with_name(f".{path.name}.{token_hex(6)}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that gets the name ``path`` once the block has ended and its content is on disk.

    After an error it is gone. What is under the name is whole, even after a power cut.

    Raises:
        OSError: it cannot be written; then ``path`` is unchanged.
    """
    draft = path.with_name(f".{path.name}.{token_hex(6)}.new")
    try:
        with draft.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_durably(path: Path, text: str) -> None:
    """Write a small text file and flush it to disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def flush(path: Path) -> None:
    """Flush a file's content, or the names in a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_durably(old: Path, new: Path) -> None:
    """Rename within one directory; after a crash there is either the old name or the new one."""
    os.rename(old, new)
    flush(new.parent)
