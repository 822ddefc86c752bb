"""The server of a test session, started when the first program is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.support.preloaded.server import ROOT
from tests.support.preloaded.spawning import SET_BY_PROGRAMS, Client, substitute

_START = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.support.preloaded.server import main
main(int(sys.argv[2]), int(sys.argv[3]))
"""
_START_PATIENCE_S = 300


class Preloaded:
    """Lets what this process starts be forks of a server, except in tests that want real processes."""

    def __init__(self) -> None:
        self._test, self._real, self._allowed = "", False, True
        self._variables: dict[str, str] = {}
        self._client: Client | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def install(self) -> None:
        """Do so from now on. The environment that counts is that of now, whatever tests change in it later."""
        self._variables = {**os.environ, **SET_BY_PROGRAMS}
        substitute(None, self._client_for)

    def begin(self, test: str, *, real: bool, allowed: bool) -> None:
        """What is started from now on is started by ``test``, as ``real`` processes; or must not be."""
        self._test, self._real, self._allowed = test, real, allowed

    @contextmanager
    def started_as(self, *, real: bool) -> Iterator[None]:
        """In the body, programs are real processes or not, whatever the test is marked."""
        before, self._real = self._real, real
        try:
            yield
        finally:
            self._real = before

    def _client_for(self, command: Sequence[str]) -> Client | None:
        if not self._allowed:
            raise AssertionError(f"{self._test} starts a program, which its code does not show: mark it `program`")
        if self._real:
            return None
        if self._process is None:
            self._client = self._start()
        return self._client

    def _start(self) -> Client | None:
        """``None`` where the kernel cannot do it: then all programs are real processes."""
        self._connection, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-c", _START, ROOT, str(theirs.fileno()), str(os.getpid())]
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=self._variables,
                pass_fds=[theirs.fileno()],
            )
        self._connection.settimeout(_START_PATIENCE_S)
        answer = self._connection.recv(5, socket.MSG_WAITALL)
        if not answer:
            raise RuntimeError("the process that is to import everything has ended; its error is above")
        self._connection.settimeout(None)
        return Client(self._connection) if answer == b"ready" else None

    def close(self) -> None:
        """End the server."""
        if self._process is not None and self._connection is not None:
            self._connection.close()
            self._process.wait()


PRELOADED = Preloaded()
