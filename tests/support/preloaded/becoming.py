"""How a fork of the server becomes the program that was asked for: as if it had just been started."""

from __future__ import annotations

import ctypes
import mmap
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

from tests.support.preloaded.request import Request

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.sbrk.restype = ctypes.c_void_p
_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_FLAGS: tuple[str, ...] = type(sys.flags).__match_args__
_shown: list[mmap.mmap] = []


def become(request: Request, descriptors: Sequence[int], added: Mapping[str, str], path: Sequence[str]) -> None:
    """Take on everything that ``request`` says of the process.

    Args:
        descriptors: its stdin, stdout and stderr.
        added: variables that importing has set.
        path: ``sys.path`` without the entries that are the environment's or the current directory's.
    """
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(request.directory)
    os.umask(request.umask)
    os.environ.clear()
    os.environ.update(request.variables)
    show(request.command, request.variables)
    for name, value in added.items():
        os.environ.setdefault(name, value)
    _be_a_new_interpreter(request, path)
    _take_signals(request)


def run(request: Request) -> None:
    """Run it; as ``python -m`` does, also in how it ends."""
    sys.argv = ["-m", *request.arguments]
    runpy._run_module_as_main(request.module)  # type: ignore[attr-defined]


def _be_a_new_interpreter(request: Request, path: Sequence[str]) -> None:
    here = [] if request.safe_path else [request.directory]
    value = request.variables.get("PYTHONPATH", "")
    named = value.split(os.pathsep) if value else []  # an empty entry is the current directory
    sys.path[:] = [*here, *dict.fromkeys([*map(os.path.abspath, named), *path])]  # `site` keeps one of each
    sys.orig_argv[:] = request.command
    flags = {name: getattr(sys.flags, name) for name in _FLAGS}
    sys.flags = SimpleNamespace(**{**flags, "safe_path": request.safe_path})  # type: ignore[assignment]
    sys.path_importer_cache.clear()
    tempfile.tempdir = None
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    if not request.variables.get("PYTHONUNBUFFERED"):  # which the server has too, or not
        sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())  # type: ignore[union-attr]


def _take_signals(request: Request) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        ignored = number in request.ignored or number in _IGNORED_BY_PYTHON
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    if signal.SIGINT not in request.ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, request.blocked)


class _Map(ctypes.Structure):
    """``struct prctl_mm_map`` of Linux."""

    _fields_ = [
        *[
            (name, ctypes.c_uint64)
            for name in (
                *("start_code", "end_code", "start_data", "end_data", "start_brk", "brk", "start_stack"),
                *("arg_start", "arg_end", "env_start", "env_end", "auxv"),
            )
        ],
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_int32),
    ]


def show(command: Sequence[str], variables: Mapping[str, str]) -> None:
    """Let ``/proc``, thus ``ps`` and psutil, show this command line and environment.

    Raises:
        OSError: the kernel was built without ``CONFIG_CHECKPOINT_RESTORE``.
    """
    arguments = b"".join(os.fsencode(word) + b"\0" for word in command)
    environment = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in variables.items())
    area = mmap.mmap(-1, len(arguments) + len(environment) + 1, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.write(arguments + environment)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(area))
    middle = begin + len(arguments)
    # "pid (name) state ...": the fields are numbered as in proc(5), the state is the third.
    fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    code, data = [int(fields[i - 3]) for i in (26, 27)], [int(fields[i - 3]) for i in (45, 46, 47)]
    memory = _Map(
        *code, *data, _LIBC.sbrk(0), int(fields[28 - 3]), begin, middle, middle, middle + len(environment), 0, 0, -1
    )
    if _LIBC.prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.byref(memory), ctypes.sizeof(memory), 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_MM_MAP)")
    _shown[:] = [area]  # /proc reads it for as long as this process is there
