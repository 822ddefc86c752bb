"""A draft: a folder written next to its final place, by one process at a time, and recognizable as a draft.

The lock is on a file in it, not on the folder: NFS shares file locks between nodes, but not locks of folders. The
kernel releases the lock when the process dies, so the draft of a killed process can be taken over.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from unipool_dist.base.belongings import Folder, Kind, discard, exists, foreign, is_mount_point, refuse, remove
from unipool_dist.base.forms import head
from unipool_dist.errors import UnipoolError

LOCK_FILE = ".lock"
_MARK = b'{"draft_of": "unipool-dist"}\n'
_LOCK_NAME = r"\.lock"


class DraftLockedError(UnipoolError):
    """Another process is writing the draft."""


def draft_kind(entries: Mapping[str, Kind]) -> Folder:
    """Return the kind of a draft that may hold ``entries``; its lock identifies it."""
    return Folder({_LOCK_NAME: _is_lock, **entries}, sign=_LOCK_NAME)


def check_draft(draft: Path, kind: Folder, *, purpose: str) -> None:
    """Refuse what :func:`locked_draft` would refuse.

    Raises:
        ForeignError: ``draft`` is a link, a mount point, has no lock, or holds anything not of ``kind``.
    """
    if exists(draft) and (draft.is_symlink() or is_mount_point(draft) or not exists(draft / LOCK_FILE)):
        refuse([draft], purpose)
    refuse(foreign(draft, kind), purpose)


@contextmanager
def locked_draft(
    draft: Path, kind: Folder, *, purpose: str, keep: str | None = None, shared: bool = False
) -> Iterator[None]:
    """Make the folder ``draft``, or empty one left by a killed process; locked within the context.

    Args:
        keep: the name of an entry that stays.
        shared: let other processes that say so have the lock as well, and empty nothing.

    The caller removes the lock file after renaming the draft, and not before: another process that makes the same draft
    would take what is being renamed for a leftover.

    Raises:
        ForeignError: see :func:`check_draft`.
        DraftLockedError: another process has locked it.
        OSError: it cannot be made.
    """
    check_draft(draft, kind, purpose=purpose)
    path = draft / LOCK_FILE
    if not exists(draft):
        _make(draft)
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # it has just got its name
        raise DraftLockedError(f"another process has just finished {draft}") from None
    try:
        if not _is_taken(lock, path, shared=shared):
            raise DraftLockedError(f"another process has locked {draft}")
        for entry in sorted(draft.iterdir()):
            if entry.name not in (LOCK_FILE, keep) and not shared:
                remove(entry, kind.of(entry.name))
        yield
    finally:
        os.close(lock)


def _make(draft: Path) -> None:
    """Make the folder with its lock already in it, so that it never exists without one."""
    draft.parent.mkdir(parents=True, exist_ok=True)
    making = draft.with_name(f".{draft.name}.{token_hex(6)}")
    making.mkdir()
    try:
        (making / LOCK_FILE).write_bytes(_MARK)
        making.rename(draft)
    except OSError:
        discard(making)
        if not exists(draft / LOCK_FILE):  # else another process was faster
            raise


def _is_taken(lock: int, path: Path, *, shared: bool) -> bool:
    """Return whether the lock is now ours."""
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        # Whoever held the lock may just have renamed the folder away.
        return path.exists() and os.path.samestat(os.fstat(lock), path.stat())
    except (BlockingIOError, PermissionError):  # which of them depends on the file server
        return False


def _is_lock(path: Path) -> bool:
    """Return whether ``path`` is a draft's lock; those of earlier versions are empty."""
    return head(path) in (_MARK, b"")
