"""A private folder shared by a launcher and its processes.

It is removed at the end. One whose launcher was killed is removed at the next start: its lock shows that it is unused.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unipool_dist.base.belongings import discard

_PREFIX = "unipool-dist-launch-"
_LOCK = "launcher.lock"


@contextmanager
def local_folder() -> Iterator[Path]:
    """Make the folder, of mode 700, in the temporary directory; remove it at the end."""
    _remove_abandoned(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with (folder / f"{_LOCK}.new").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            Path(lock.name).rename(folder / _LOCK)  # never there without being held
            yield folder


def _remove_abandoned(temporary: Path) -> None:
    """Remove the folders of this user's launchers that were killed, as their locks prove."""
    for folder in temporary.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            status = folder.lstat()
            if (
                not stat.S_ISDIR(status.st_mode)
                or status.st_uid != os.getuid()
                or stat.S_IMODE(status.st_mode) != 0o700
            ):
                continue
            descriptor = os.open(folder / _LOCK, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                discard(folder)
            finally:
                os.close(descriptor)
