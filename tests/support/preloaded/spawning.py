"""``subprocess.Popen`` that asks a server for a fork where that makes no difference, and starts a process elsewhere."""

from __future__ import annotations

import ctypes
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.support.preloaded.request import Request, request_for, send_request

MODULES = (
    "unipool_dist",
    "tests.support.workers",
    "tests.resilience.stuck_run",
    "tests.support.preloaded.witness",
)
QUICK = (["status"], ["submit"])
"""Commands without torch: they take less time to start than a fork to end."""
_PR_SET_CHILD_SUBREAPER = 36
_AT_IMPORT = re.compile(
    r"(OMP|GOMP|MKL|KMP|OPENBLAS|CUDA|DS|LC|LD|MALLOC)_|PYTHON(?!PATH$|SAFEPATH$)"
    r"|(LANG|LANGUAGE|TORCH_LOGS|TORCH_CPP_LOG_LEVEL|TORCH_SHOW_CPP_STACKTRACES|TORCH_DISTRIBUTED_DEBUG)$"
)
"""Variables that importing reads, or Python as it starts."""
SET_BY_PROGRAMS = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Variables that a program sets before it imports torch, if it was started without."""
_real_execute_child = subprocess.Popen._execute_child  # type: ignore[attr-defined]


class Client:
    """The connection of a process to the server that forks for it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def start(self, request: Request, descriptors: Sequence[int]) -> int:
        """Start the program as a child of this process; its process id.

        Raises:
            ConnectionError: the server is gone.
        """
        with self._lock, adopting():
            send_request(self._connection, request, descriptors)
            answer = self._connection.recv(16, socket.MSG_WAITALL)
        if not answer:
            raise ConnectionError("the process that has imported everything is gone")
        return int(answer)


@contextmanager
def adopting() -> Iterator[None]:
    """Descendants whose parent ends within become children of this process."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(0), 0, 0, 0)


class Program(NamedTuple):
    """``python -m MODULE ARGUMENTS``."""

    module: str
    arguments: list[str]
    safe_path: bool


def parsed(command: Sequence[str]) -> Program | None:
    """The command if it is this Python with one of ``MODULES``."""
    words = list(command)
    if not words or words.pop(0) != sys.executable:
        return None
    safe_path = words[:1] == ["-P"]
    words = words[safe_path:]
    if len(words) < 2 or words[0] != "-m" or words[1] not in MODULES or words[2:3] in QUICK:
        return None
    return Program(words[1], words[2:], safe_path)


def settled_by_importing(variables: Mapping[str, str]) -> dict[str, str]:
    """Those of ``variables`` that must be the same in a server and in what is forked from it."""
    return {
        **SET_BY_PROGRAMS,
        **{name: value for name, value in variables.items() if _AT_IMPORT.match(name)},
    }


def substitute(client: Client | None, wanted: Callable[[Sequence[str]], Client | None] | None = None) -> None:
    """From now on ``subprocess.Popen`` in this process starts programs by ``client``, where that can be.

    Args:
        client: ``None``: the one that ``wanted(command)`` gives, or none for this command.
    """
    here = settled_by_importing(os.environ)

    def execute_child(
        popen: Any,
        args: Any,
        executable: Any,
        preexec_fn: Any,
        close_fds: Any,
        pass_fds: Any,
        cwd: Any,
        env: Any,
        startupinfo: Any,
        creationflags: Any,
        shell: Any,
        p2cread: int,
        p2cwrite: int,
        c2pread: int,
        c2pwrite: int,
        errread: int,
        errwrite: int,
        restore_signals: Any,
        gid: Any,
        gids: Any,
        uid: Any,
        umask: int,
        start_new_session: bool,
        process_group: int,
    ) -> None:
        command = [os.fspath(word) for word in args] if isinstance(args, list | tuple) else []
        program = None if any(isinstance(word, bytes) for word in command) else parsed(command)
        variables = dict(os.environ if env is None else env)
        usual = (
            (executable is None or executable == sys.executable)
            and not (preexec_fn or pass_fds or shell or gid or gids or uid)
            and (gid, gids, uid, umask, process_group) == (None, None, None, -1, -1)
            and all(isinstance(word, str) for pair in variables.items() for word in pair)
            and settled_by_importing(variables) == here
        )
        directory = os.path.abspath(os.fsdecode(cwd or "."))
        usual = usual and program is not None and os.path.isdir(directory)
        server = client if client is not None or not usual or wanted is None else wanted(command)
        if program is None or not usual or server is None:
            _real_execute_child(
                popen, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids, uid, umask,
                start_new_session, process_group,
            )  # fmt: skip
            return
        try:
            request = request_for(
                command,
                program.module,
                program.arguments,
                safe_path=program.safe_path or bool(variables.get("PYTHONSAFEPATH")),
                variables=variables,
                directory=directory,
                new_session=start_new_session,
            )
            standard = [end if end != -1 else number for number, end in enumerate((p2cread, c2pwrite, errwrite))]
            popen.pid = server.start(request, standard)
            popen._child_created = True
        finally:
            popen._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    subprocess.Popen._execute_child = execute_child  # type: ignore[attr-defined]
