"""Standard output and standard error: nothing raw is written there, and nobody ends because they are gone.

Whoever started the program may close its terminal, or read the first lines alone (``| head``), or redirect into a file
on a full disk; and what is said may hold names that nobody vouches for. So :func:`say` and :func:`put` are the only
ways to write there, and :func:`guard_streams`, called at the start of every process of ours, is for what libraries
write: tqdm, logging, warnings, tracebacks, the interpreter as it ends.
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
    """Write ``text`` and a line's end to standard output, or standard error; control characters are escaped.

    Line ends and tabs stay. It is one write, so that lines of several processes do not come between each other.
    """
    _write(printable(text, lines=True) + "\n", err=err)


def put(text: str) -> None:
    """Write ``text`` to standard output as it is: a document for a file or a program. A terminal gets it escaped."""
    stream = sys.stdout
    _write(printable(text, lines=True) if stream is not None and stream.isatty() else text)


def say_at_once(text: object, *, descriptor: int = 2) -> None:
    """Write a line past Python's streams, whose locks another thread may hold for as long as it is stuck.

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
    """A file descriptor whose writing never fails: what cannot be written is dropped.

    Each write is tried anew, as a full disk may have room again. A reader that is only slow is waited for, also where
    the descriptor is set not to.
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
    """A text stream onto ``descriptor`` that never fails: neither in writing nor at what its encoding cannot say.

    Args:
        like: encoding and buffering are this stream's.
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
    """Let no writing to standard output or standard error fail from now on, whoever writes.

    Descriptors 0 to 2 that are closed become the null device; else the next file that is opened would be one of them,
    and get what is printed. Streams that somebody has put in place of the interpreter's own are left alone.
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
    """Why something that was written to standard output, or standard error, is not there; ``None`` if all is."""
    stream = sys.stderr if err else sys.stdout
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, LastingOutput):
        return None
    assert stream is not None
    stream.flush()
    return raw.error
