"""The state of a run follows from its files, and changes only as the table of transitions allows."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unipool_dist.base.stopping import Stop, StopReason
from unipool_dist.run import condition as condition_module
from unipool_dist.run.attempts import Attempt, AttemptLog
from unipool_dist.run.condition import SlurmWord, read_condition
from unipool_dist.run.heartbeat import HeartbeatWriter
from unipool_dist.run.state import RunState

STEPS = 4
ENDS = ("failed early", "interrupted early", "stopped", "failed", "interrupted", "cut off", "finished")
WARNED = Stop(StopReason.WARNED, "SIGUSR1 on a rank")


class Life:
    """A run whose starts come and go, at times of a clock that only moves forward."""

    def __init__(self, run_dir: Path, clock: Callable[[float], float]) -> None:
        self.run_dir, self.clock, self.step = run_dir, clock, 0
        (run_dir / "job").mkdir()
        self.log = AttemptLog(run_dir / "job")
        self.slurm: SlurmWord | None = None

    def queued(self) -> None:
        self.slurm = SlurmWord("PENDING", is_over=False, reason="Priority")

    def started(self) -> None:
        self.slurm = SlurmWord("RUNNING", is_over=False)
        self.log.start(Attempt("7", 0, ["n1"], 1, self.step, self.clock(1)))

    def begun(self) -> None:
        self.clock(1)
        self.beat = HeartbeatWriter(self.run_dir, steps=STEPS, resumed_from=self.step)

    def trained(self) -> None:
        self.clock(1)
        self.step = min(self.step + 1, STEPS - 1)
        self.beat.write(self.step)

    def silent(self) -> None:
        self.clock(condition_module.SILENT_S + 1)

    def stopped(self) -> None:
        self.clock(1)
        self.beat.write(self.step, RunState.STOPPED, WARNED)

    def finished(self) -> None:
        self.clock(1)
        self.beat.write(STEPS, RunState.FINISHED)

    def job_is_over(self) -> None:
        self.slurm = SlurmWord("COMPLETED", is_over=True)

    def ended(self, outcome: RunState) -> None:
        self.job_is_over()
        self.log.end(ended=self.clock(1), outcome=outcome, detail="an error")

    def state(self) -> RunState:
        return read_condition(self.run_dir, self.slurm).state


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Life:
    now = 1e9

    def clock(seconds: float) -> float:
        nonlocal now
        now += seconds
        return now

    monkeypatch.setattr(time, "time", lambda: now)
    return Life(tmp_path, clock)


def lives(chance: random.Random) -> Iterator[str]:
    """What may happen to a run: starts, each of which ends, or is cut off, at any point; until it is finished."""
    while True:
        if chance.random() < 0.5:
            yield "queued"
        yield "started"
        end = chance.choice(
            ["failed early", "interrupted early", "stopped", "failed", "interrupted", "cut off", "finished"]
        )
        if "early" not in end:
            yield "begun"
            yield from ["trained"] * chance.randrange(3)
            if chance.random() < 0.3:
                yield from ("silent", "trained")
        if end in ("stopped", "finished"):
            yield end
            yield f"ended {end}"
        elif end == "cut off":
            yield from ("job_is_over", "silent")
        else:
            yield f"ended {end.split()[0]}"
        if end == "finished":
            return


@pytest.mark.parametrize("seed", range(40))
def test_states_follow_each_other_as_the_table_allows(life: Life, seed: int) -> None:
    state = life.state()
    assert state is RunState.WAITING
    for event in lives(random.Random(seed)):
        name, _, outcome = event.partition(" ")
        getattr(life, name)(*[RunState(outcome)] if outcome else [])
        now = life.state()
        assert now.may_follow(state), f"{state} -> {now} at {event}"
        if outcome:
            assert now is RunState(outcome)
        state = now
    assert state is RunState.FINISHED


def test_every_state_can_be_reached_and_left() -> None:
    for state in RunState:
        assert state.may_follow(state)
        assert any(state.may_follow(before) for before in RunState if before is not state)
        assert any(after.may_follow(state) for after in RunState if after is not state)
    assert {state for state in RunState if state.is_end} == {"stopped", "interrupted", "failed", "finished"}
    assert not RunState.FAILED.may_follow(RunState.FINISHED) and not RunState.FINISHED.may_follow(RunState.WAITING)


def test_a_heartbeat_keeps_to_the_table(life: Life) -> None:
    life.begun()
    life.stopped()
    with pytest.raises(AssertionError):
        life.finished()


def test_a_run_that_is_done_stays_finished(life: Life) -> None:
    life.started()
    life.begun()
    life.beat.write(STEPS)
    life.job_is_over()
    assert life.state() is RunState.TRAINING, "its last step is not saved yet"
    (life.run_dir / "checkpoints" / f"step-{STEPS:08d}").mkdir(parents=True)
    assert life.state() is RunState.FINISHED
    life.ended(RunState.FAILED)
    assert life.state() is RunState.FINISHED, "what failed came after the save"


def test_details_and_words(life: Life) -> None:
    life.queued()
    found = read_condition(life.run_dir, life.slurm)
    assert (found.state, found.detail, found.word) == (RunState.WAITING, "Priority", "PENDING")
    life.started()
    life.begun()
    life.slurm = SlurmWord("NODE_FAIL", is_over=True)
    found = read_condition(life.run_dir, life.slurm)
    assert (found.state, found.detail, found.word) == (RunState.INTERRUPTED, None, "NODE_FAIL")
    life.stopped()
    life.ended(RunState.STOPPED)
    found = read_condition(life.run_dir, life.slurm)
    assert (found.state, found.detail, found.word) == (RunState.STOPPED, WARNED.detail, "stopped")
