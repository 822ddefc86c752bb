"""Forms of files: the checks by which kinds of belongings recognize a file of this program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unipool_dist.base.reading import open_regular, read_json

_HEAD_BYTES = 1 << 16


def json_object(*keys: str, **values: Any) -> Callable[[Path], bool]:
    """Return the form of a file that is one JSON object with these keys, and these values."""

    def has_form(path: Path) -> bool:
        try:
            found = read_json(path)
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(found, dict) and {*keys, *values} <= found.keys() and values.items() <= found.items()

    return has_form


def json_lines(*alternatives: tuple[str, ...]) -> Callable[[Path], bool]:
    """Return the form of a file whose first line is a JSON object with all keys of one of ``alternatives``."""

    def has_form(path: Path) -> bool:
        try:
            found = json.loads(head(path).split(b"\n", 1)[0])
        except (ValueError, RecursionError):
            return False
        return isinstance(found, dict) and any(found.keys() >= set(keys) for keys in alternatives)

    return has_form


def head(path: Path, num_bytes: int = _HEAD_BYTES) -> bytes:
    """Return the first bytes of a regular file; none if it cannot be read."""
    try:
        with open_regular(path) as file:
            data: bytes = file.read(num_bytes)
            return data
    except (OSError, ValueError):
        return b""


def either(*forms: Callable[[Path], bool]) -> Callable[[Path], bool]:
    """Return the form of a file that has one of ``forms``."""
    return lambda path: any(form(path) for form in forms)


def is_png(path: Path) -> bool:
    """Return whether ``path`` is a PNG image."""
    return head(path, 8) == b"\x89PNG\r\n\x1a\n"


def is_lock(path: Path) -> bool:
    """Return whether ``path`` is a file that :class:`~unipool_dist.run.lock.RunLock` locks.

    It names a holder, or is empty if a process was killed just after creating it.
    """
    return head(path) == b"" or json_object("host", "pid", "since")(path)
