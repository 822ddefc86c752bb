"""Errors of the operating system as one sentence for the user: which file or folder, why, and what to do."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unipool_dist.base.printable import printable

_ADVICE = {
    errno.EACCES: "its owner or mode keeps this user out: change that, or choose another place",
    errno.EPERM: "this user may not do that there: change its owner or mode, or choose another place",
    errno.EROFS: "the file system is read-only: choose another place",
    errno.ENOSPC: "the file system is full: make room, or choose another place; then give the command again",
    errno.EDQUOT: "the quota of this user is used up: make room, or choose another place; then give the command again",
    errno.EFBIG: "the file would be larger than `ulimit -f` or the file system allows: raise the limit",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EILSEQ: "choose a name that the file system takes",
    errno.ELOOP: "its links lead round in a circle, or through too many others: mend them",
    errno.ENOTDIR: "a file is where a folder should be: move it away, or choose another place",
    errno.EISDIR: "a folder is where a file should be: move it away, or choose another place",
    errno.EEXIST: "move it away, or choose another place",
    errno.ENOTEMPTY: "something else has written into it meanwhile: move that away, or choose another place",
    errno.ENOENT: "see whether the name is right, and whether something has deleted it meanwhile",
    errno.EMFILE: "this process may open no more files: raise `ulimit -n`",
    errno.ENFILE: "this machine can open no more files: end other programs, or raise fs.file-max",
    errno.ENOMEM: "there is not enough memory: end other programs, or raise the limit (`ulimit -v`, --mem)",
    errno.EAGAIN: "no more processes or threads can be started: raise `ulimit -u` or `-v`, or end other programs",
    errno.EIO: "the disk or the file server has failed: see the system's log",
    errno.ESTALE: "the file server has lost it: give the command again; else see whether it is still mounted",
    errno.EXDEV: "it is on another file system: choose a place on the same one",
    errno.ETXTBSY: "it is in use: wait until that has ended",
    errno.EBUSY: "it is in use, or a mount point: unmount it, or choose another place",
}

_LOOP = "Symlink loop from "
_IN_OTHER_WORDS = {
    errno.EMFILE: ("too many open files",),
    errno.ENFILE: ("too many open files in system",),
    errno.ENOMEM: ("cannot allocate memory", "can't allocate memory"),
    errno.EAGAIN: ("can't start new thread", "thread constructor failed", "resource temporarily unavailable"),
}
"""Texts, without a number, that libraries in C++ make of an error of the system."""


def explained(error: OSError | RuntimeError | MemoryError | ImportError) -> str | None:
    """Return ``error`` as one sentence; ``None`` if the operating system did not raise it.

    Some libraries derive their own errors from ``OSError``; those have no ``errno``. ``Path.resolve`` raises a
    ``RuntimeError`` for circular links (until Python 3.13), and C++ code raises one for too many open files, too little
    memory or too many threads.
    """
    if isinstance(error, MemoryError):
        return f"{os.strerror(errno.ENOMEM)}; {_ADVICE[errno.ENOMEM]}"
    if not isinstance(error, OSError):
        _, loop, path = str(error).partition(_LOOP)
        return f"{printable(path)}: {os.strerror(errno.ELOOP)}; {_ADVICE[errno.ELOOP]}" if loop else _limit(str(error))
    if error.errno is None:
        return _of_many(error) if isinstance(error, shutil.Error) else None
    reason = printable(error.strerror or os.strerror(error.errno))
    names = [
        printable(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)
    ]
    what = f"{' -> '.join(names)}: {reason}" if names else reason
    advice = _ADVICE.get(error.errno)
    return f"{what}; {advice}" if advice else what


def _limit(text: str) -> str | None:
    """Return which limit of the system a library ran into, judging by its message."""
    text = text.lower()
    for number, words in _IN_OTHER_WORDS.items():
        # For a non-blocking socket, "temporarily unavailable" is not a limit.
        if any(word in text for word in words) and (number != errno.EAGAIN or "gloo" not in text):
            return f"{os.strerror(number)}; {_ADVICE[number]}"
    return None


@contextmanager
def at(path: Path) -> Iterator[None]:
    """Add ``path`` to an operating-system error that names no file, as errors of writing do.

    Raises:
        OSError: what the body raises, with a name.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(path)) from error


def _of_many(error: shutil.Error) -> str:
    """Return the first error of the list that ``shutil.copytree`` raises at the end."""
    failures = error.args[0] if error.args else ""
    if isinstance(failures, list) and failures and isinstance(failures[0], tuple) and len(failures[0]) == 3:
        _, target, reason = failures[0]
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        return f"{printable(target)} could not be copied{more}: {printable(reason)}; see whether there is room for it"
    return printable(failures)
