"""Standard output and standard error: nothing unescaped is written there, and a closed terminal ends no process.

The user may close the terminal, read only the first lines (``| head``), or redirect into a file on a full disk; and
messages may contain untrusted names. So :func:`say` and :func:`put` are the only ways to write there.
:func:`guard_streams`, called at the start of every process of ours, covers what libraries write: tqdm, logging,
warnings, tracebacks, and the interpreter at exit.
"""

from __future__ import annotations

import io
import os
import select
import sys
from contextlib import suppress
from typing import IO, Any, TextIO

from unipool_dist.base.printable import printable


def say(text: object = "", *, err: bool = False) -> None:
    """Write ``text`` and a newline to standard output, or standard error; control characters are escaped.

    Newlines and tabs stay. The write is a single one, so lines of several processes do not interleave.
    """
    _write(printable(text, lines=True) + "\n", err=err)


def put(text: str) -> None:
    """Write ``text`` unchanged to standard output: a document for a file or a program. On a terminal it is escaped."""
    stream = sys.stdout
    _write(printable(text, lines=True) if stream is not None and stream.isatty() else text)


def say_at_once(text: object, *, descriptor: int = 2) -> None:
    """Write a line without Python's streams, whose locks a stuck thread may hold.

    For signal handlers and threads that watch others. What cannot be written is dropped.
    """
    with suppress(OSError):
        os.write(descriptor, (printable(text, lines=True) + "\n").encode("utf-8"))


def _write(text: str, *, err: bool = False) -> None:
    stream: TextIO | None = sys.stderr if err else sys.stdout
    if stream is not None:  # closed when the interpreter started
        stream.write(text)
        stream.flush()


class LastingOutput(io.FileIO):
    """A file descriptor to which writing never fails: what cannot be written is dropped.

    Each write is tried again, as a full disk may have room again. A slow reader is waited for, even if the descriptor
    is non-blocking.
    """

    def __init__(self, descriptor: int, *, closefd: bool = False) -> None:
        super().__init__(descriptor, "w", closefd=closefd)
        self.error: OSError | None = None
        """Why something was dropped; the first time."""

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                written = super().write(rest)
                if written is None:
                    select.select([], [self.fileno()], [])
                rest = rest[written or 0 :]
        except OSError as error:
            self.error = self.error or error
        return size


def lasting_text(descriptor: int, like: IO[str] | None = None) -> io.TextIOWrapper:
    """Return a text stream onto ``descriptor`` that never fails: not in writing, nor at characters it cannot encode.

    Args:
        like: take encoding and buffering from this stream.
    """
    like = like if isinstance(like, io.TextIOWrapper) else None
    raw = LastingOutput(descriptor)
    unbuffered = like is not None and not isinstance(like.buffer, io.BufferedWriter)  # python -u
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=like.encoding if like is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=like is not None and like.line_buffering,
        write_through=unbuffered,
    )


def guard_streams() -> None:
    """Make every later write to standard output or standard error succeed, whoever writes.

    Closed descriptors 0 to 2 are opened onto the null device; otherwise the next file opened would get one of these
    numbers, and receive what is printed. Streams that somebody has put in place of the interpreter's are left alone.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
            os.set_inheritable(descriptor, True)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")  # empty
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        own, used = getattr(sys, f"__{name}__"), getattr(sys, name)
        if used is own and not isinstance(getattr(own, "buffer", None), LastingOutput):
            stream = lasting_text(descriptor, own)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def lost(*, err: bool = False) -> OSError | None:
    """Return why part of what was written to standard output or standard error is missing; ``None`` if nothing is."""
    stream = sys.stderr if err else sys.stdout
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, LastingOutput):
        return None
    assert stream is not None
    stream.flush()
    return raw.error
