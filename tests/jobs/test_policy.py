"""When a run is started again, and when not."""

from __future__ import annotations

from typing import Any

import pytest

from unipool_dist.jobs.attempts import Attempt
from unipool_dist.jobs.policy import MAX_CUT_OFF, after_tasks, may_start, outcome_of


def attempt(step_before: int = 0, **ended: Any) -> Attempt:
    return Attempt("7", 0, ["n1"], 4, step_before, 0.0, **ended)


def failed(step: int | None) -> Attempt:
    return attempt(outcome="failed", status=1, step=step, detail="status 1")


@pytest.mark.parametrize(
    ("status", "state", "ended_by_slurm", "outcome"),
    [
        (0, "finished", False, "finished"),
        (0, None, False, "finished"),  # it was finished before and had nothing to do
        (0, "finished", True, "finished"),
        (75, "stopped", False, "stopped"),
        (75, "stopped", True, "interrupted"),
        (75, "training", False, "failed"),  # the watchdog: nothing was saved
        (143, "training", True, "interrupted"),
        (137, "training", False, "failed"),
        (1, None, False, "failed"),
    ],
)
def test_outcome(status: int, state: str | None, ended_by_slurm: bool, outcome: str) -> None:
    assert outcome_of(status, state, ended_by_slurm=ended_by_slurm) == outcome


def test_a_finished_run_ends() -> None:
    assert after_tasks([attempt(outcome="finished", status=0)], reason=None).action == "end"


def test_a_stopped_run_goes_on_unless_somebody_stopped_it_with_sigint() -> None:
    stopped = attempt(outcome="stopped", status=75, step=10)
    assert after_tasks([stopped], reason="SIGUSR1 on a rank").action == "requeue"
    assert after_tasks([stopped], reason="SIGTERM on a rank").action == "requeue"
    assert after_tasks([stopped], reason="SIGINT on a rank").action == "end"


def test_what_slurm_ends_is_left_to_slurm() -> None:
    assert after_tasks([attempt(outcome="interrupted", status=143, step=3)], reason=None).action == "end"


def test_the_second_failure_at_a_step_is_the_last() -> None:
    assert after_tasks([failed(12)], reason=None).action == "requeue"
    decision = after_tasks([failed(12), failed(12)], reason=None)
    assert decision.action == "give_up" and "after step 12" in decision.because
    # A failure elsewhere in between, from a lost node for instance, does not hide it.
    assert after_tasks([failed(12), failed(7), failed(12)], reason=None).action == "give_up"
    assert after_tasks([failed(12), failed(13)], reason=None).action == "requeue"


def test_failures_before_the_first_step_count_only_in_a_row() -> None:
    assert after_tasks([failed(None), failed(None)], reason=None).action == "give_up"
    stopped = attempt(outcome="stopped", status=75, step=9)
    assert after_tasks([failed(None), stopped, failed(None)], reason=None).action == "requeue"


def test_starts_that_are_cut_off_end_some_day() -> None:
    cut = [attempt(step_before=4)] * MAX_CUT_OFF
    refusal = may_start(cut, 4)
    assert refusal is not None and refusal.action == "give_up" and f"{MAX_CUT_OFF} starts" in refusal.because
    assert may_start(cut, 5) is None, "a step was done"
    assert may_start(cut[1:], 4) is None
    assert may_start([*cut[1:], failed(4)], 4) is None, "the last one ended by itself"
