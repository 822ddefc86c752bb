"""What a process does while it reads an input, from Python's audit events: programs started, files opened and changed.

It sees more than a look at the folders afterwards: a file outside that is only read, a program that leaves no trace.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

OPENED = "opened outside its folder"
_PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pty.spawn")
_CHANGES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
}
"""By event, where among its arguments paths stand that are changed, each with its folder's descriptor."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_OWN_PROGRAMS = {os.path.basename(sys.executable), "git", "sbatch", "scontrol", "squeue", "sacct", "gcc"}
"""What commands start on purpose: themselves, git for the code's version, SLURM's, and what DeepSpeed looks for."""


def watch(tell: Callable[[str], None], writable: Sequence[Path], forbidden: Path) -> None:
    """Call ``tell`` from now on, in this process, with each thing that no input may cause.

    Args:
        writable: folders in which files may be made and changed.
        forbidden: a folder of which not even a file may be opened.
    """
    may_write = (*(os.path.realpath(folder) for folder in writable), "/dev/null", "/proc/self")
    closed = os.path.realpath(forbidden)
    busy = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy or (event != "open" and event not in _PROGRAMS and event not in _CHANGES):
            return
        busy = True  # what follows may open files itself
        try:
            said = _said(event, arguments, may_write, closed)
            if said:
                tell(said)
        finally:
            busy = False

    sys.addaudithook(hook)


def _said(event: str, arguments: tuple[Any, ...], may_write: Sequence[str], closed: str) -> str:
    if event in _PROGRAMS:
        program = os.path.basename(os.fsdecode(arguments[0] or b""))
        return "" if program in _OWN_PROGRAMS else f"EXECUTED: {event} {arguments[:2]!r}"
    if event == "open":
        path = _place(arguments[0], None, follow=True)
        if path and _inside(path, (closed,)):
            return f"{OPENED}: {path}"
        return f"wrote outside its folder: {path}" if arguments[2] & _WRITING and _strays(path, may_write) else ""
    for at, folder in _CHANGES[event]:
        path = _place(arguments[at], None if folder is None else arguments[folder], follow=False)
        if _strays(path, may_write):
            return f"changed outside its folder: {event} {path}"
    return ""


def _place(path: Any, folder: int | None, *, follow: bool) -> str:
    """The real place of what an event names; empty for a descriptor."""
    if isinstance(path, int) or path is None:
        return ""
    name = os.fsdecode(path)
    if folder is not None and folder >= 0:
        name = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
    if follow:
        return os.path.realpath(name)
    return os.path.join(os.path.realpath(os.path.dirname(name) or "."), os.path.basename(name))


def _strays(path: str, may_write: Sequence[str]) -> bool:
    return bool(path) and not _inside(path, may_write)


def _inside(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for folder in folders)
