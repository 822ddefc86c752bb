"""Worker processes for tests that need several ranks: started once, kept for the whole session.

Every task gets fresh process groups. ``python -m tests.support.workers SOCKET`` is one of the processes.
"""

from __future__ import annotations

import gc
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing import current_process
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from typing import Any

MAX_WORKERS = 8
_ROOT = Path(__file__).parents[2]


class WorkerError(AssertionError):
    """A rank raised, died or did not answer in time; the message holds what every rank said."""


class Workers:
    """Up to eight ranks. A task is an importable function ``f(environment, *args)``; its results come back by rank."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []
        self._last_task = "none"

    def run(self, function: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 600) -> list[Any]:
        """Run ``function`` on ranks ``0 .. world_size - 1``; return their results.

        Raises:
            WorkerError: after all processes were ended, so that the next task starts from fresh ones.
        """
        assert 1 <= world_size <= MAX_WORKERS
        self._check_all_live()
        self._last_task = f"{function.__module__}.{function.__qualname__}"
        self._start(world_size)
        port = free_port()
        for rank in range(world_size):
            self._connections[rank].send((function, rank, world_size, port, args))
        answers: dict[int, tuple[str, Any]] = {}
        deadline = time.monotonic() + timeout_s
        pending = set(range(world_size))
        while pending and time.monotonic() < deadline:
            # Once one has failed the others may wait for it for ever.
            grace = 5.0 if any(kind == "error" for kind, _ in answers.values()) else deadline - time.monotonic()
            ready = wait([self._connections[rank] for rank in pending], timeout=grace)
            if not ready and grace == 5.0:
                break
            for rank in [rank for rank in pending if self._connections[rank] in ready]:
                pending.remove(rank)
                try:
                    answers[rank] = self._connections[rank].recv()
                except EOFError:
                    answers[rank] = ("error", "the process died")
                except Exception:  # the answer cannot be unpickled, and those of the others must not be the next task's
                    answers[rank] = ("error", f"its answer cannot be read: {traceback.format_exc()}")
        silent = [rank for rank in range(world_size) if rank not in answers]
        failed = {rank: text for rank, (kind, text) in answers.items() if kind == "error"}
        if silent or failed:
            self.close()
            parts = [f"rank {rank}: {text}" for rank, text in sorted(failed.items())]
            raise WorkerError("\n".join([f"no answer from ranks {silent} after {timeout_s:g} s", *parts]))
        return [answers[rank][1] for rank in range(world_size)]

    def pids(self) -> list[int]:
        """Process ids, of those that were started."""
        return [process.pid for process in self._processes]

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections = [], []

    def _check_all_live(self) -> None:
        """Say so where it can still be seen what ended a worker: after the test before, not in all that follow."""
        ended = [
            f"rank {rank}: {status}"
            for rank, process in enumerate(self._processes)
            if (status := process.poll()) is not None
        ]
        if ended:
            self.close()
            raise WorkerError(f"workers have died since {self._last_task}, by exit status: {', '.join(ended)}")

    def _start(self, count: int) -> None:
        with tempfile.TemporaryDirectory() as folder, Listener(str(Path(folder, "socket"))) as listener:
            command = [sys.executable, "-m", "tests.support.workers", str(listener.address)]
            while len(self._processes) < count:
                variables = {**os.environ, "OMP_NUM_THREADS": "1"}
                self._processes.append(subprocess.Popen(command, cwd=_ROOT, env=variables))
                connection = listener.accept()
                # The modules of tests are found as they are here, and tensors, whose memory is handed over, are let in.
                connection.send((sys.path, bytes(current_process().authkey)))
                self._connections.append(connection)


def free_port() -> int:
    """A TCP port that nobody listens on now, below the range from which the system serves connections of its own."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _serve(connection: Connection) -> None:
    sys.path[:], current_process().authkey = connection.recv()
    import torch

    from unipool_dist.comm.environment import Environment

    torch.set_num_threads(1)
    while True:
        try:
            function, rank, world_size, port, args = connection.recv()
        except EOFError:
            return
        environment = Environment(rank, world_size, rank, "127.0.0.1", port)
        try:
            connection.send(("result", function(environment, *args)))
        except BaseException:
            connection.send(("error", traceback.format_exc()))
        gc.collect()  # groups in cycles keep threads that wake a hundred times a second


if __name__ == "__main__":
    _serve(Client(sys.argv[1]))
