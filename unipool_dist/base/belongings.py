"""Ownership of files and folders: what this program made and what it did not. The only place that removes either.

Guarantees: an entry is removed only if both its name and its content are of a form that this program writes; anything
else is named in a :class:`ForeignError` before anything is removed. Links are unlinked and never followed. A mount
point, or a folder reached through a link, is emptied of our files and kept.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unipool_dist.base.printable import printable
from unipool_dist.base.writing import DRAFT_NAME
from unipool_dist.errors import UnipoolError

Form = Callable[[Path], bool]
"""Whether the regular file there has the form that this program gives it."""
_SHOWN = 8


class ForeignError(UnipoolError):
    """Something that this program did not make is in a place where it would write or delete."""


class Kept:
    """The kind of an entry that is always kept and never in the way."""


@dataclass(frozen=True)
class Folder:
    """A kind of folder: everything that this program puts into one, as regular expressions over names."""

    entries: Mapping[str, Form | Folder | Kept]
    sign: str | None = None
    """Expression of names that nobody else would choose: one is there unless the folder is empty; removed last."""

    def of(self, name: str) -> Kind | None:
        """Return the kind of the entry ``name``, or ``None`` if the folder may not hold it."""
        for pattern, kind in self.entries.items():
            if re.fullmatch(pattern, name):
                return kind
        replacing = DRAFT_NAME.fullmatch(name)  # left by a process that was killed while it wrote the file
        return any_file if replacing and callable(self.of(replacing[1])) else None


Kind = Form | Folder | Kept


def any_file(path: Path) -> bool:
    """Accept any content: for files whose name is proof enough."""
    return True


def exists(path: Path) -> bool:
    """Return whether anything is at ``path``, including a broken link."""
    return os.path.lexists(path)


def foreign(path: Path, kind: Kind | None) -> list[Path]:
    """Return what is at or below ``path`` and was not made by this program as a ``kind``; empty if nothing is there.

    Links are followed: one to a thing of this kind counts as the thing, a broken one is foreign.
    """
    if not exists(path) or isinstance(kind, Kept):
        return []
    if kind is None:
        return [path]
    try:
        if not isinstance(kind, Folder):
            return [] if stat.S_ISREG(path.stat().st_mode) and kind(path) else [path]
        names = sorted(os.listdir(path))
    except (OSError, ValueError):  # a link to nothing or to itself, a file where a folder belongs, not to be read
        return [path]
    if names and kind.sign is not None and not any(re.fullmatch(kind.sign, name) for name in names):
        return [path]
    return [thing for name in names for thing in foreign(path / name, kind.of(name))]


def free_name(path: Path) -> Path:
    """Return ``path``, with a number appended if that name is taken."""
    name, number = path, 1
    while exists(name):
        number += 1
        name = path.with_name(f"{path.name}.{number}")
    return name


def listed(paths: Iterable[Path]) -> str:
    """Return ``paths`` as an error lists them, shortened if there are many."""
    names = [printable(str(path)) + _how(path) for path in paths]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def refuse(paths: Iterable[Path], purpose: str) -> None:
    """Raise if there are any ``paths``, which are foreign and in the way of ``purpose`` ("writing X").

    Raises:
        ForeignError: naming them.
    """
    found = list(paths)
    if found:
        raise ForeignError(
            f"{purpose} would delete or replace what unipool-dist has not made: {listed(found)}; move it away or "
            f"choose another place"
        )


def remove(path: Path, kind: Kind | None) -> None:
    """Remove the thing of this kind at ``path``, if there is one; a link to one is unlinked.

    Raises:
        ForeignError: it, or something in it, is not of this kind; nothing is removed then.
        OSError: it cannot be removed.
    """
    refuse(foreign(path, kind), f"removing {path}")
    if isinstance(kind, Kept):
        return
    if path.is_symlink() or not isinstance(kind, Folder):
        path.unlink(missing_ok=True)
    elif path.is_dir():
        empty(path, kind)


def empty(path: Path, kind: Folder) -> None:
    """Remove everything in the folder of this kind at ``path``, which may be reached through a link.

    The folder itself is removed too, unless it is a link or a mount point.

    Raises:
        ForeignError: something in it is not of this kind; nothing is removed then.
        OSError: it cannot be removed.
    """
    refuse(foreign(path, kind), f"emptying {path}")
    names = os.listdir(path) if path.is_dir() else []
    for name in _signs_last(names, kind):
        remove(path / name, kind.of(name))
        if isinstance(kind.of(name), Folder):
            remove_if_empty(path / name)  # of a name of ours in a folder of ours
    if names and not path.is_symlink():  # one that was empty may be anybody's
        remove_if_empty(path)


def remove_if_empty(path: Path) -> None:
    """Remove the folder at ``path`` if it exists and is empty; links and mount points stay."""
    with suppress(OSError):
        path.rmdir()


def unlink_link(path: Path) -> None:
    """Remove the link at ``path``, whatever it points to."""
    assert path.is_symlink(), path
    path.unlink()


def discard(path: Path) -> None:
    """Remove a folder as far as possible, without checking its form.

    Only for folders known to be ours: this process made it under a free name, or a lock in it proves which launcher of
    this user did.
    """
    shutil.rmtree(path, ignore_errors=True)


def is_mount_point(path: Path) -> bool:
    """Return whether something is mounted at ``path``, including a bind mount of the same file system."""
    if os.path.ismount(path):
        return True
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    return os.path.realpath(path) in {_unescaped(line.split(" ")[4]) for line in lines}


def _signs_last(names: list[str], kind: Folder) -> Iterator[str]:
    """Order entries so that an interrupted removal leaves what identifies the rest as ours."""
    sign = kind.sign
    yield from sorted(names, key=lambda name: (sign is not None and bool(re.fullmatch(sign, name)), name))


def _how(path: Path) -> str:
    """Return in brackets what is odd about ``path``."""
    if path.is_symlink() and not path.exists():
        return " (a link that leads nowhere)"
    return ""


def _unescaped(field: str) -> str:
    """Decode a path from mountinfo, where the kernel writes spaces and the like in octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
