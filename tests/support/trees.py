"""Trees of files as they are, to see whether anything of them was changed."""

from __future__ import annotations

import os
from pathlib import Path


def snapshot(top: Path) -> dict[str, object]:
    """By path within ``top``, what is there: a file's content, a link's target, or ``None`` for a folder."""
    found: dict[str, object] = {}
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = Path(folder) / name
            value: object = None if path.is_dir() else path.read_bytes() if path.is_file() else "special"
            found[str(path.relative_to(top))] = os.readlink(path) if path.is_symlink() else value
    return found
