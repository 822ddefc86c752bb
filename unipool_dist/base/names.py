"""File names read from files: each must stay inside its folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from unipool_dist.base.printable import printable

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 3500
"""Linux allows 4095; files below a directory add their own names."""


class OutsideError(ValueError):
    """A name in a file points out of its folder, or to something that is not a regular file."""


def plain_name(name: object) -> str:
    """Return ``name`` if it is just a file name: no folder, no ``..``, no control character.

    Raises:
        OutsideError: it is not.
    """
    if not isinstance(name, str) or not name or name in (".", "..") or "/" in name or printable(name) != name:
        raise OutsideError(f"{printable(repr(name))} is not a plain file name")
    if len(os.fsencode(name)) > MAX_NAME_BYTES:
        raise OutsideError(f"a file name has more than {MAX_NAME_BYTES} bytes")
    return name


def path_text(text: str) -> str:
    """Return ``text`` if it can be a path; whether that exists is not checked.

    Raises:
        ValueError: it is empty, too long, or has a control character or an unpaired surrogate.
    """
    if not text:
        raise ValueError("a path cannot be empty")
    if printable(text) != text:
        raise ValueError("a path cannot have control characters or bytes that are not UTF-8")
    if any(len(name.encode()) > MAX_NAME_BYTES for name in text.split("/")):
        raise ValueError(f"a name in a path cannot have more than {MAX_NAME_BYTES} bytes")
    if len(text.encode()) > MAX_PATH_BYTES:
        raise ValueError(f"a path cannot have more than {MAX_PATH_BYTES:,} bytes")
    return text


def regular_inside(folder: Path, name: object, *, nested: bool = False) -> Path:
    """Return the path of ``name`` in ``folder``, which must be a regular file if it exists at all.

    Args:
        nested: allow folders in the name (``tokenizer/vocab.json``); each part must be a plain name, and none a link.

    Raises:
        OutsideError: the name is not plain, or it is a link, folder, pipe or device.
    """
    parts = name.split("/") if nested and isinstance(name, str) else [name]
    path = folder
    for part in parts:
        path = path / plain_name(part)
        try:
            mode = path.lstat().st_mode
        except OSError:  # missing: for the caller to find out, with words of its own
            continue
        last = part is parts[-1]
        if not (stat.S_ISREG(mode) if last else stat.S_ISDIR(mode)):
            raise OutsideError(f"{printable(str(path))} is not a {'regular file' if last else 'folder'}")
    return path
