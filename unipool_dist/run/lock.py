"""The lock of a run directory: one process at a time writes into it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType

from unipool_dist.base.belongings import refuse
from unipool_dist.base.console import say
from unipool_dist.base.forms import is_lock
from unipool_dist.base.reading import read_json
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.errors import RunLockedError

_NO_LOCKS_HERE = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)
_LOOK_EVERY_S = 0.5
_HELD = (errno.EWOULDBLOCK, errno.EACCES)  # the second from file servers that turn flock into another kind of lock


class RunLock:
    """Between acquire and release no other process acquires the lock of ``run_dir``, as far as the file system can.

    The kernel releases it when this process dies, however it does, so no lock is ever left behind. The file stays;
    deleting it lets a second run in. Subprocesses do not inherit the lock.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._descriptor: int | None = None

    def acquire(self, wait_s: float = 0.0, on_held: Callable[[], None] = lambda: None) -> None:
        """Take the lock or raise; make ``run_dir`` if need be.

        A file system without locks gives a warning on stderr, not an error: it cannot tell two runs apart.

        Args:
            wait_s: how long to wait for a process that holds it. A restarted job waits for what is left of its previous
                start
                on a node that was cut off.
            on_held: called after each failed attempt, twice a second.

        Raises:
            RunLockedError: another process holds it.
            ForeignError: the file of that name is not a lock of this program.
            OSError: the lock file cannot be opened.
        """
        assert self._descriptor is None
        self._run_dir.mkdir(parents=True, exist_ok=True)
        path = RunDirectory(self._run_dir).lock
        refuse([path] if path.is_symlink() and not path.exists() else [], f"locking {self._run_dir}")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o644)
        try:
            self._lock(descriptor, path, wait_s, on_held)
            _refuse_foreign(descriptor, path)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(_this_process()).encode() + b"\n")
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _lock(self, descriptor: int, path: Path, wait_s: float, on_held: Callable[[], None]) -> None:
        give_up = time.monotonic() + wait_s
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno in _NO_LOCKS_HERE:
                    _warn(
                        f"the file system of run.dir={self._run_dir} has no locks ({error.strerror}): two runs in this "
                        f"directory at once would not be noticed; start only one"
                    )
                    return
                if error.errno not in _HELD:
                    raise
                if time.monotonic() >= give_up:
                    raise RunLockedError(
                        f"run.dir={self._run_dir} is being written by {_holder(path)}; wait for it to end, or end it"
                    ) from None
            if not told:
                _warn(f"run.dir={self._run_dir} is still held by {_holder(path)}; waiting for at most {wait_s:g} s")
                told = True
            on_held()
            time.sleep(_LOOK_EVERY_S)

    def release(self) -> None:
        """Release the lock; do nothing if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def _refuse_foreign(descriptor: int, path: Path) -> None:
    """Refuse to empty a file that is not ours: ours names a holder, or is empty after a killed start."""
    regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
    refuse([] if regular and is_lock(path) else [path], f"locking {path.parent}")


def holder_of(run_dir: Path) -> str | None:
    """Describe who holds the lock of ``run_dir``; ``None`` if nobody does, or the file system cannot tell.

    Looking takes a shared lock for a moment, in which :meth:`RunLock.acquire` would be refused.
    """
    path = RunDirectory(run_dir).lock
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return _holder(path) if error.errno in _HELD else None
    finally:
        os.close(descriptor)
    return None


def _warn(line: str) -> None:
    say(f"warning: {line}", err=True)


def _this_process() -> dict[str, str | int]:
    holder: dict[str, str | int] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    job = os.environ.get("SLURM_JOB_ID")
    return holder if job is None else {**holder, "slurm_job": job}


def _holder(path: Path) -> str:
    """Return who wrote the lock file; it is empty for a moment after the lock was taken."""
    try:
        holder = read_json(path)
        job = f", SLURM job {holder['slurm_job']}" if "slurm_job" in holder else ""
        return f"process {holder['pid']} on host {holder['host']} (since {holder['since']}{job})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
