"""Worker processes for tests that need several ranks: started once, kept for the whole session.

Importing torch, Megatron-core and DeepSpeed costs seconds per process, so the processes stay; every task gets fresh
process groups.
"""

from __future__ import annotations

import gc
import multiprocessing as mp
import os
import random
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

MAX_WORKERS = 8


class WorkerError(AssertionError):
    """A rank raised, died or did not answer in time; the message holds what every rank said."""


class Workers:
    """Up to eight ranks. A task is an importable function ``f(environment, *args)``; its results come back by rank."""

    def __init__(self) -> None:
        self._processes: list[Any] = []
        self._connections: list[Connection] = []

    def run(self, function: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 600) -> list[Any]:
        """Run ``function`` on ranks ``0 .. world_size - 1``; return their results.

        Raises:
            WorkerError: after all processes were ended, so that the next task starts from fresh ones.
        """
        assert 1 <= world_size <= MAX_WORKERS
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
        silent = [rank for rank in range(world_size) if rank not in answers]
        failed = {rank: text for rank, (kind, text) in answers.items() if kind == "error"}
        if silent or failed:
            self.close()
            parts = [f"rank {rank}: {text}" for rank, text in sorted(failed.items())]
            raise WorkerError("\n".join([f"no answer from ranks {silent} after {timeout_s:g} s", *parts]))
        return [answers[rank][1] for rank in range(world_size)]

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        self._processes, self._connections = [], []

    def _start(self, count: int) -> None:
        context = mp.get_context("spawn")
        while len(self._processes) < count:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there,), daemon=True)
            process.start()
            there.close()
            self._processes.append(process)
            self._connections.append(here)


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
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from unipool_dist.topology.environment import Environment

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
