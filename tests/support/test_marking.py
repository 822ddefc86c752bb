"""The kind of a test follows from what it reaches, and its CPU is counted wherever it was used."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.support import running
from tests.support.budget import BUDGETS_S, budget_of, cpu_s
from tests.support.marking import KINDS, starts_programs
from tests.support.workers import WorkerError, Workers


def _starts() -> None:
    subprocess.run(["true"], check=True)


class _Starting:
    @property
    def process(self) -> None:
        _starts()


def _through_a_class() -> Any:
    return _Starting().process


def _forks() -> int:
    return os.fork()


def _within() -> Any:
    return lambda: [_forks() for _ in range(1)]


def _does_not() -> None:
    subprocessing = "a subprocess"
    assert subprocessing


@pytest.mark.parametrize(
    ("function", "starts"),
    [
        (_starts, True),
        (_through_a_class, True),
        (_forks, True),
        (_within, True),
        (running.Run, True),
        (_does_not, False),
        (running.last_step, False),
    ],
)
def test_what_starts_programs_is_found_by_what_it_reaches(function: Any, starts: bool) -> None:
    assert starts_programs(function) == starts


def test_this_is_marked_pure(request: pytest.FixtureRequest) -> None:
    assert [mark.name for mark in request.node.iter_markers() if mark.name in KINDS] == ["pure"]


def test_the_budget_is_that_of_the_most_expensive_kind() -> None:
    assert set(BUDGETS_S) == set(KINDS)
    assert budget_of(["ranks", "program", "parametrize"]) == max(BUDGETS_S["ranks"], BUDGETS_S["program"])


def test_cpu_is_counted_here_in_ended_programs_and_in_workers() -> None:
    turn = "import time\nwhile time.process_time() < 0.5: pass"
    before = cpu_s()
    subprocess.run([sys.executable, "-S", "-E", "-c", turn], check=True)
    until = time.process_time() + 0.5
    while time.process_time() < until:
        pass
    assert 1.0 <= cpu_s() - before < 1.5
    with subprocess.Popen([sys.executable, "-S", "-E", "-c", f"{turn}\ninput()"], stdin=subprocess.PIPE) as worker:
        waited_until = time.monotonic() + 30
        while cpu_s([worker.pid]) - cpu_s() < 0.4:
            assert time.monotonic() < waited_until
        worker.kill()


def _rank_and_process(environment: Any) -> tuple[int, int]:
    return environment.rank, os.getpid()


def test_a_worker_that_has_died_is_named_at_the_next_use_and_then_there_is_another() -> None:
    """Not as a broken pipe in that and all later tests."""
    pool = Workers()
    try:
        ((_, first), (_, second)) = pool.run(_rank_and_process, 2)
        assert pool.pids() == [first, second]
        os.kill(second, 9)
        os.waitid(os.P_PID, second, os.WEXITED | os.WNOWAIT)
        with pytest.raises(WorkerError, match=r"died since .*_rank_and_process, by exit status: rank 1: -9"):
            pool.run(_rank_and_process, 1)
        ((rank, third),) = pool.run(_rank_and_process, 1)
        assert rank == 0 and third not in (first, second)
    finally:
        pool.close()
