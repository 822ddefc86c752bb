"""Python stacks of this process's threads, even if a C call holds the interpreter."""

from __future__ import annotations

import faulthandler
import os
import re
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

_OURS = "unipool_dist"
# Where a rank waits for one other rank; the flight recorder sees this with NCCL only.
_POINT_TO_POINT = ("megatron.core.pipeline_parallel.p2p_communication", "unipool_dist.checkpoint.transfer")
_DEBUGGERS = frozenset({"bdb", "pdb", "pydevd", "_pydevd_bundle", "debugpy", "ipdb", "pudb"})
_LINE = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)')


@dataclass(frozen=True)
class Stack:
    """One thread, innermost frame first."""

    thread: str
    main: bool
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Frame:
    """One call under way."""

    module: str
    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}"


def stacks() -> list[Stack]:
    """Return all Python threads of this process, the main thread first."""
    main = threading.main_thread().ident
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = [
        Stack(names.get(ident, f"thread {ident}"), ident == main, _frames(frame))
        for ident, frame in sys._current_frames().items()
    ]
    return sorted(found, key=lambda stack: not stack.main)


def side_threads() -> list[int]:
    """Return the identifiers of the threads that Python code has started; training is in none of them.

    It is in the main thread and, on CUDA, in autograd's for backward. Those become known to :mod:`threading` when
    something in them logs, as dummies.
    """
    dummy = threading._DummyThread  # the only sign of a thread that was not started there
    others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    return [thread.ident for thread in others if thread.ident is not None and not isinstance(thread, dummy)]


def main_stack() -> Stack:
    """Return the main thread."""
    ident = threading.main_thread().ident
    assert ident is not None
    return Stack("MainThread", True, _frames(sys._current_frames()[ident]))


def _frames(frame: FrameType | None) -> tuple[Frame, ...]:
    frames = []
    while frame is not None:
        code = frame.f_code
        frames.append(
            Frame(frame.f_globals.get("__name__", "?"), code.co_filename, frame.f_lineno or 0, code.co_qualname)
        )
        frame = frame.f_back
    return tuple(frames)


def place(stack: Stack) -> str:
    """Return ``FILE:LINE FUNCTION`` of the innermost call, and of the innermost in this project if another."""
    innermost = stack.frames[0]
    ours = next((frame for frame in stack.frames if frame.module.split(".")[0] == _OURS), None)
    return f"{innermost}" if ours in (innermost, None) else f"{innermost}, called from {ours}"


def in_point_to_point(stack: Stack) -> bool:
    """Return whether the innermost calls are those that send to or receive from one other rank."""
    return any(frame.module in _POINT_TO_POINT for frame in stack.frames[:5])


def in_debugger(stack: Stack) -> bool:
    """Return whether the thread is held in a debugger."""
    return any(frame.module.split(".")[0] in _DEBUGGERS for frame in stack.frames[:12])


def render(found: list[Stack]) -> str:
    """Return all stacks as text, with the source lines where they can be read."""
    lines: list[str] = []
    for stack in found:
        lines.append(f"thread {stack.thread} (innermost call first):")
        summary = traceback.StackSummary.from_list(
            [traceback.FrameSummary(f.file, f.line, f.function) for f in stack.frames]
        )
        lines += [line.rstrip("\n") for line in summary.format()]
        lines.append("")
    return "\n".join(lines)


class HeldInterpreterDump:
    """Python stacks kept for other processes to read, taken after no Python ran here for ``after_s``.

    A C thread writes them into memory that has a file descriptor, so neither the interpreter nor a disk is needed,
    and nothing is left behind. Where there is no such memory (not Linux) nothing is kept.
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self.descriptor = os.memfd_create("unipool-dist-stacks") if hasattr(os, "memfd_create") else None

    def rearm(self) -> None:
        """Start the wait again, as Python runs."""
        if self.descriptor is not None:
            if os.fstat(self.descriptor).st_size:
                os.ftruncate(self.descriptor, 0)
                os.lseek(self.descriptor, 0, os.SEEK_SET)
            faulthandler.dump_traceback_later(self._after_s, file=self.descriptor)

    def cancel(self) -> None:
        """Stop waiting."""
        if self.descriptor is not None:
            faulthandler.cancel_dump_traceback_later()


def read_held_dump(pid: int, descriptor: int) -> str:
    """Return the dump that another process of this host keeps; empty if there is none, or it cannot be read."""
    try:
        return Path(f"/proc/{pid}/fd/{descriptor}").read_text(errors="replace")
    except OSError:
        return ""


def place_in_dump(text: str) -> str | None:
    """Return ``FILE:LINE FUNCTION`` of the innermost call of the main thread, the last one in a dump of all threads."""
    main = text.rstrip().rpartition("\n\n")[2]
    found = _LINE.search(main)
    return None if found is None else f"{found['file']}:{found['line']} {found['function']}"
