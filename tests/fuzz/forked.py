"""One call of the command line in a forked child: what it said, how it ended, what it took.

The parent has imported everything once, so that an input costs milliseconds and not seconds.
"""

from __future__ import annotations

import atexit
import io
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.audit import watch
from tests.fuzz.place import Place

MEMORY_LIMIT = 1 << 30
"""Bytes that a process may have resident, everything that it imports included."""
CPU_LIMIT_S = 10
WALL_LIMIT_S = 40
"""Far more than the CPU time, as other things run on the machine; a process that waits for ever meets it."""
_FILE_LIMIT = 1 << 28
_PAGE = resource.getpagesize()


@dataclass(frozen=True)
class Outcome:
    """How a call ended."""

    status: int | None
    """``None``: by a signal or at a limit; ``ended_by`` says which."""
    ended_by: str
    stdout: bytes
    stderr: bytes
    peak_bytes: int
    cpu_s: float
    wall_s: float
    events: tuple[str, ...]
    """What the audit has seen."""


def call(work: Callable[[], object], place: Place) -> Outcome:
    """Call ``work`` in a child, in ``place.folder``; it ends as the command line does, by return or ``SystemExit``."""
    names = ("stdout", "stderr", "events")
    files = {name: place.folder.parent / name for name in names}
    for file in files.values():
        file.write_bytes(b"")
    began = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_child(work, place, files)
    status, ended_by, usage = _wait(child, began)
    if not ended_by and os.WIFSIGNALED(status):
        ended_by = f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
    if not _group_ends(child):
        ended_by = ended_by or "left a process behind"
    return Outcome(
        None if ended_by else os.WEXITSTATUS(status),
        ended_by,
        files["stdout"].read_bytes(),
        files["stderr"].read_bytes(),
        usage.ru_maxrss * 1024,
        usage.ru_utime + usage.ru_stime,
        time.monotonic() - began,
        tuple(dict.fromkeys(files["events"].read_text(errors="backslashreplace").splitlines())),
    )


def _be_child(work: Callable[[], object], place: Place, files: dict[str, Path]) -> None:
    """Never returns."""
    status = 99
    try:
        # What the parent has registered is the parent's to do: multiprocessing's function ends the parent's children.
        atexit._clear()
        os.setsid()
        descriptors = {name: os.open(path, os.O_WRONLY | os.O_APPEND) for name, path in files.items()}
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(descriptors["stdout"], 1)
        os.dup2(descriptors["stderr"], 2)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", write_through=True)
        sys.stderr = io.TextIOWrapper(
            io.FileIO(2, "w", closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True
        )
        os.chdir(place.folder)
        os.environ["TMPDIR"] = tempfile.tempdir = str(place.temporary)
        for limit, value in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_CPU, CPU_LIMIT_S),
            (resource.RLIMIT_FSIZE, _FILE_LIMIT),
        ):
            resource.setrlimit(limit, (value, value))
        told = descriptors["events"]
        watch(lambda event: _tell(told, event), _writable(place), place.outside)
        status = _status(work)
        atexit._run_exitfuncs()  # as the interpreter would at its end; there is no public name for it
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(status)


def _status(work: Callable[[], object]) -> int:
    """The exit status that the interpreter would give; a traceback on stderr for what it would print one for."""
    try:
        work()
        return 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1


def _writable(place: Place) -> Sequence[Path]:
    return place.folder, place.temporary, Path.home(), Path("/dev/shm")


def _tell(descriptor: int, event: str) -> None:
    os.write(descriptor, (event.replace("\n", "\\n") + "\n").encode(errors="backslashreplace"))


def _wait(child: int, began: float) -> tuple[int, str, resource.struct_rusage]:
    """Until the child ends, or is killed for its memory, or for the time that it takes."""
    ended_by = ""
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            if not ended_by and os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
                ended_by = f"hangs: {CPU_LIMIT_S} s of CPU"
            return status, ended_by, usage
        if not ended_by:
            if _resident(child) > MEMORY_LIMIT:
                ended_by = f"memory above {MEMORY_LIMIT >> 20} MiB"
            elif time.monotonic() - began > WALL_LIMIT_S:
                ended_by = f"hangs: {WALL_LIMIT_S} s"
            if ended_by:
                os.killpg(child, signal.SIGKILL)
        time.sleep(0.002)


def _resident(process: int) -> int:
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
    return 0


def _group_ends(leader: int) -> bool:
    """Whether no process of the child's session is left, a moment after its end; ends what there is."""
    until = time.monotonic() + 3
    while time.monotonic() < until:
        try:
            os.killpg(leader, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    return False
