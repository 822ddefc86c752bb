"""Where an input is tried: a fresh folder to work in, and beside it a tree that nothing may touch."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

SECRET = "what stands outside stays outside"
"""In every file of the tree outside: it must not come out either."""

_TREE = (
    "thesis.tex",
    "corpus/manifest.json",
    "corpus/prose.train.bin",
    "corpus/prose.train.idx",
    "run/config.yaml",
    "run/checkpoints/step-00000002/manifest.json",
    "run/checkpoints/step-00000002/__0_0.distcp",
    "model.safetensors",
)
"""Named like files of this program's, so that something that leads there finds what it looks for."""


class Place:
    """``folder`` is the working directory, ``temporary`` the temporary folder, ``outside`` somebody else's."""

    def __init__(self, root: Path) -> None:
        self.folder, self.temporary, self.outside = root / "folder", root / "tmp", root / "outside"
        self._before: dict[str, tuple[object, ...]] = {}

    @property
    def canary(self) -> Path:
        """The file that payloads make."""
        return self.outside / "canary"

    @property
    def payload(self) -> str:
        """A shell command without a blank line that leaves a trace."""
        return f"touch {self.canary}"

    def clear(self) -> None:
        """Make both folders anew, and the tree outside if it is not as it was."""
        for folder in (self.folder, self.temporary):
            _remove(folder)
            folder.mkdir(parents=True)
        if not self._before or _snapshot(self.outside) != self._before:
            _remove(self.outside)
            for name in _TREE:
                path = self.outside / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{SECRET}: {name}\n")
            self._before = _snapshot(self.outside)

    def faults(self) -> list[str]:
        """What was changed outside, and what was left in the temporary folder."""
        found = []
        if self.canary.exists():
            found.append("EXECUTED: the canary was made")
        after = _snapshot(self.outside)
        changed = sorted(name for name in {*self._before, *after} if self._before.get(name) != after.get(name))
        if changed:
            found.append(f"touched outside its folder: {', '.join(changed)}")
        left = [name for name in sorted(os.listdir(self.temporary)) if not name.startswith("torchinductor_")]
        if left:
            found.append(f"left in the temporary folder: {', '.join(left)}")
        return found


def _snapshot(tree: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        times = () if path.is_dir() else (status.st_mtime_ns,)
        found[str(path.relative_to(tree))] = (status.st_mode, status.st_ino, content, *times)
    return found


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
