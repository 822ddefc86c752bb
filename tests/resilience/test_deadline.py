"""The time limit: leaves room for one more step and one save."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from unipool_dist.resilience.deadline import Deadline


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_without_a_limit_time_is_never_up() -> None:
    clock = Clock()
    deadline = Deadline(None, clock, started=0.0)
    deadline.observe_step(1e9)
    assert not deadline.reached()


def test_before_anything_was_observed_only_the_limit_counts() -> None:
    clock = Clock()
    deadline = Deadline(100.0, clock, started=1000.0)
    for now, reached in ((1000.0, False), (1099.9, False), (1100.0, True), (2000.0, True)):
        clock.now = now
        assert deadline.reached() is reached


def room_left(deadline: Deadline, clock: Clock) -> float:
    """Seconds before the limit, to a tenth, from which on time is up."""
    before = 1.0
    while before < 100:
        clock.now = 1100.0 - before
        if not deadline.reached():
            return before
        before += 0.1
    raise AssertionError("time was up from the beginning")


@pytest.mark.parametrize(
    ("steps", "saves", "num_saves", "room"),
    [
        ((10.0,), (), 1, 12.0),
        ((), (20.0,), 1, 24.0),
        ((10.0, 2.0, 3.0), (1.0, 20.0, 5.0), 1, 36.0),
        ((10.0,), (20.0,), 2, 60.0),  # one begins just before time is up, and the last one waits for it
    ],
)
def test_room_is_left_for_the_longest_step_and_saves_seen(
    steps: tuple[float, ...], saves: tuple[float, ...], num_saves: int, room: float
) -> None:
    clock = Clock()
    deadline = Deadline(100.0, clock, started=1000.0, num_saves=num_saves)
    for seconds in steps:
        deadline.observe_step(seconds)
    for seconds in saves:
        deadline.observe_save(seconds)
    assert room_left(deadline, clock) == pytest.approx(room, abs=0.2)


def test_what_is_assumed_of_saves_holds_until_one_was_seen() -> None:
    clock = Clock()
    deadline = Deadline(100.0, clock, started=1000.0)
    deadline.assume_save(50.0)
    assert room_left(deadline, clock) == pytest.approx(60.0, abs=0.2)
    deadline.observe_save(5.0)
    assert room_left(deadline, clock) == pytest.approx(6.0, abs=0.2)


def test_time_counts_from_the_start_of_the_process() -> None:
    program = """
import sys, time
time.sleep(1.6)
from unipool_dist.resilience.deadline import Deadline, process_start_monotonic
assert "torch" not in sys.modules
print(Deadline(0.5).reached(), Deadline(60.0).reached(), process_start_monotonic())
"""
    before = time.monotonic()
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    late, early, started = result.stdout.split()
    assert (late, early) == ("True", "False")
    assert float(started) == pytest.approx(before, abs=1.2)  # the system's start is known to a second
