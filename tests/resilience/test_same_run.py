"""Only a process that is the rank in question, of this run, is ever signalled."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import psutil
import pytest

from unipool_dist.base.credentials import KEY, new_key
from unipool_dist.resilience import same_run
from unipool_dist.resilience.same_run import find_rank, kill_rank

OURS = {KEY: new_key(), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "WORLD_SIZE": "2"}
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a process with these variables; this one is taken to have been started with ``OURS``."""
    started = []
    environ = psutil.Process.environ

    def ours_or_theirs(process: psutil.Process) -> dict[str, str]:
        return OURS if process.pid == os.getpid() else environ(process)

    monkeypatch.setattr(same_run.psutil.Process, "environ", ours_or_theirs)

    def starting(**variables: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "60"], env=variables))
        return started[-1]

    yield starting
    for process in started:
        process.kill()
        process.wait()


def created(process: subprocess.Popen[bytes]) -> float:
    return float(psutil.Process(process.pid).create_time())


def test_a_rank_of_this_run_is_found_and_killed(start: Start) -> None:
    rank = start(**OURS, RANK="1")
    assert find_rank(rank.pid, created(rank), 1) is not None
    kill_rank(rank.pid, created(rank), 1)
    assert rank.wait(10) == -signal.SIGKILL
    kill_rank(rank.pid, 0.0, 1)  # gone: nothing


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"RANK": "1"},
        {**OURS, KEY: new_key(), "RANK": "1"},
        {name: value for name, value in {**OURS, "RANK": "1"}.items() if name != KEY},
        {**OURS, "RANK": "0"},
        OURS,
        {**OURS, "MASTER_PORT": "29500", "RANK": "1"},
    ],
)
def test_any_other_process_of_the_user_is_left_alone(start: Start, variables: dict[str, str]) -> None:
    """Whatever a note in a store says of it, its start time included."""
    other = start(**variables)
    kill_rank(other.pid, created(other), 1)
    with pytest.raises(subprocess.TimeoutExpired):
        other.wait(0.2)


def test_a_number_that_has_come_to_another_process_is_not_signalled(start: Start) -> None:
    rank = start(**OURS, RANK="1")
    kill_rank(rank.pid, created(rank) - 5, 1)
    with pytest.raises(subprocess.TimeoutExpired):
        rank.wait(0.2)


def test_a_process_that_no_launcher_started_has_no_other_ranks(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    other = start(RANK="1")
    monkeypatch.setattr(same_run.psutil.Process, "environ", lambda process: {"RANK": "1"})
    kill_rank(other.pid, created(other), 1)
    with pytest.raises(subprocess.TimeoutExpired):
        other.wait(0.2)
