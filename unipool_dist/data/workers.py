"""Tasks carried out by worker processes, in any order, by as many as there is work for.

Guarantees: every task is carried out once; its error is raised here; no worker outlives this process, even if that is
killed, nor the ``with`` block that it was started in. A task leaves its results in files and returns what is small.

A worker is a program of its own (:mod:`unipool_dist.data.worker`) and no fork, so that it works from a notebook or a
program with threads. Each computes on one thread.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import unipool_dist
from unipool_dist.base.machine import cores_here
from unipool_dist.base.programs import Process, converse_with
from unipool_dist.base.progress_bars import Count
from unipool_dist.data import worker as program
from unipool_dist.errors import DataError

Result = TypeVar("Result", covariant=True)
_LONGEST_END_S = 10.0
_MOST_UNASKED = 8
_WORTH_BYTES = 8 << 20
"""Of text: a second of work, for which a process more is worth its start."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class Task(Protocol[Result]):
    """What one process does by itself. It can be pickled, and does the same wherever it is unpickled."""

    def run(self, count: Count) -> Result:
        """Do it; call ``count`` with the bytes done from time to time."""


R = TypeVar("R")


class _Worker:
    """A worker process, and the pipes to and from it."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-m", program.__name__, str(os.getpid())]
        self._process: Process = converse_with(command, _environment())
        assert self._process.stdin is not None and self._process.stdout is not None
        self.requests: Connection = Connection(os.dup(self._process.stdin.fileno()), readable=False)
        self.answers: Connection = Connection(os.dup(self._process.stdout.fileno()), writable=False)
        self._process.stdin.close()
        self._process.stdout.close()

    def give(self, task: Task) -> bool:
        """Hand over ``task``; return whether that was possible: not every function can be pickled."""
        try:
            self.requests.send(task)
        except OSError:  # it has ended, which is seen when its answer is read
            return True
        except Exception:  # what cannot be pickled says so by errors of every kind
            return False
        return True

    def how_it_ended(self) -> str:
        status = self._process.wait(_LONGEST_END_S)
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"

    def end(self) -> None:
        self._process.kill()
        self._process.wait(_LONGEST_END_S)
        self.requests.close()
        self.answers.close()


class Workers:
    """Up to ``most`` worker processes, started when there are tasks for them; with one this process works.

    ``None``: as many as there are processors for, up to 8, and as the tasks are worth by their size.
    """

    def __init__(self, most: int | None) -> None:
        self._most, self._worth_bytes = (most, 0) if most else (min(cores_here(), _MOST_UNASKED), _WORTH_BYTES)
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        workers, self._workers = self._workers, []
        for one in workers:
            one.end()

    def run(self, tasks: Sequence[Task[R]], sizes: Sequence[int], count: Count) -> Iterator[tuple[int, R]]:
        """Yield the index and the result of each task, as they are done.

        Args:
            sizes: bytes of each task, 0 if unknown.
            count: called with the bytes done.

        Raises:
            DataError: a worker was ended; and every error of a task, also if others have not been done.
        """
        wanted = min(self._most, len(tasks))
        if self._worth_bytes:
            wanted = min(wanted, sum(sizes) // self._worth_bytes)
        if wanted < 2:
            for i, task in enumerate(tasks):
                yield i, task.run(count)
            return
        waiting = deque(enumerate(tasks))
        while len(self._workers) < wanted:
            self._workers.append(_Worker())
        busy: dict[Connection, tuple[_Worker, int]] = {}
        idle = list(self._workers)
        while waiting or busy:
            while idle and waiting:
                index, task = waiting.popleft()
                one = idle.pop()
                if one.give(task):
                    busy[one.answers] = one, index
                else:
                    idle.append(one)
                    yield index, task.run(count)
            for answers in wait(list(busy)) if busy else ():
                assert isinstance(answers, Connection)
                one, index = busy[answers]
                kind, content = _answer(one)
                if kind == "count":
                    count(content)
                    continue
                del busy[answers]
                idle.append(one)
                yield index, content if kind == "done" else tasks[index].run(count)


def _answer(one: _Worker) -> tuple[program.Kind, Any]:
    try:
        kind, content = one.answers.recv()
    except (EOFError, OSError):
        raise DataError(
            f"a worker process ended ({one.how_it_ended()}) in the middle of its work: if the memory was exhausted, "
            f"use fewer --workers; what is done is kept"
        ) from None
    if kind == "error":
        raise content
    return kind, content


def _environment() -> Mapping[str, str]:
    """Return a worker's variables: one thread, and the package where it is found now, whatever ``sys.path`` was."""
    root = str(Path(unipool_dist.__file__).absolute().parents[1])
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return {**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(dict.fromkeys([root, *entries]))}
