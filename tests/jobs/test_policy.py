"""When a run is started again, and when not."""

from __future__ import annotations

from typing import Any

import pytest

from unipool_dist.base.reading import record_of
from unipool_dist.base.stopping import with_reason
from unipool_dist.jobs.policy import (
    MAX_CUT_OFF,
    MAX_FRUITLESS,
    MAX_STOPPED,
    Decision,
    after_tasks,
    may_start,
    outcome_of,
)
from unipool_dist.run.attempts import Attempt
from unipool_dist.run.state import RunState


def attempt(step_before: int = 0, job_id: str = "7", **ended: Any) -> Attempt:
    """As it is read from a file of an earlier version, which has the reason in words alone."""
    start = {
        "job_id": job_id,
        "restart": 0,
        "nodes": ["n1"],
        "num_tasks": 4,
        "step_before": step_before,
        "started": 0.0,
    }
    return record_of(Attempt, with_reason(start | ended, text="detail"))


def failed(step: int | None, job_id: str = "7") -> Attempt:
    return attempt(step or 0, job_id, outcome="failed", status=1, step=step, detail="status 1")


def stopped(step: int, words: str = "SIGUSR1 on a rank", **known: Any) -> Attempt:
    return attempt(step, outcome="stopped", status=75, step=step, detail=words, **known)


def decide(attempts: list[Attempt], step: int = 0, checkpoint: int = 0) -> Decision:
    return after_tasks(attempts, step=max(step, attempts[-1].step or 0), checkpoint=checkpoint)


def refused(attempts: list[Attempt], step: int, checkpoint: int = 0, job_id: str = "7") -> Decision | None:
    return may_start(attempts, job_id, step=step, checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("status", "state", "finished", "ended_by_slurm", "outcome"),
    [
        (0, "finished", True, False, "finished"),
        (0, None, True, False, "finished"),  # it was finished before and had nothing to do
        (0, "finished", True, True, "finished"),
        (0, "training", False, False, "interrupted"),  # what srun says when it has lost a node
        (0, None, False, False, "interrupted"),
        (75, "stopped", False, False, "stopped"),
        (75, "stopped", False, True, "interrupted"),
        (75, "training", False, False, "failed"),  # the watchdog: nothing was saved
        (143, "training", False, True, "interrupted"),
        (137, "training", False, False, "failed"),
        (1, None, False, False, "failed"),
        (1, "finished", True, False, "failed"),  # at its end; the next start sees that nothing is left to do
    ],
)
def test_outcome(status: int, state: str | None, finished: bool, ended_by_slurm: bool, outcome: str) -> None:
    assert (
        outcome_of(status, RunState(state) if state else None, finished=finished, ended_by_slurm=ended_by_slurm)
        == outcome
    )


def test_a_finished_run_ends() -> None:
    assert decide([attempt(outcome="finished", status=0)]).action == "end"


def test_a_stopped_run_goes_on_unless_somebody_stopped_it_with_sigint() -> None:
    assert decide([stopped(10)]).action == "requeue"
    assert decide([stopped(10, "SIGTERM on a rank")]).action == "requeue"
    assert decide([stopped(10, "SIGINT on a rank")]).action == "end"


def test_a_run_that_a_callback_stopped_ends_for_the_reason_that_it_gave() -> None:
    decision = decide([stopped(10, "the loss is low enough", reason="callback")])
    assert decision.action == "end" and "the loss is low enough" in decision.because


def test_a_second_sigint_that_left_no_time_to_save_does_not_bring_the_job_back() -> None:
    ended = attempt(outcome="failed", status=130, step=10, detail="killed by SIGINT")
    assert decide([ended]).action == "end"
    assert decide([attempt(outcome="failed", status=138, step=10, detail="killed by SIGUSR1")]).action == "requeue"


def test_what_slurm_ends_is_left_to_slurm_and_the_advice_is_for_a_run_whose_time_was_up() -> None:
    decision = decide([attempt(outcome="interrupted", status=143, step=3)])
    assert decision.action == "end" and "#SBATCH --signal" in decision.advice


def test_the_second_failure_at_a_step_is_the_last() -> None:
    assert decide([failed(12)]).action == "requeue"
    decision = decide([failed(12), failed(12)])
    assert decision.action == "give_up" and "after step 12" in decision.because
    # A failure elsewhere in between, from a lost node for instance, does not hide it.
    assert decide([failed(12), failed(7), failed(12)]).action == "give_up"
    assert decide([failed(12), failed(13)]).action == "requeue"


def test_failures_before_the_first_step_count_only_in_a_row() -> None:
    assert decide([failed(None), failed(None)]).action == "give_up"
    assert decide([failed(None), stopped(9), failed(None)], step=9).action == "requeue"


def test_a_run_that_is_submitted_again_is_tried_again() -> None:
    """Whoever does it has dealt with what ended the earlier job."""
    assert decide([failed(12, "6"), failed(12, "6"), failed(12)]).action == "requeue"
    assert decide([failed(None, "6"), failed(None)]).action == "requeue"
    assert refused([attempt(4, "6")] * MAX_CUT_OFF, 4, job_id="7") is None
    assert refused([attempt(4, "6")] * MAX_CUT_OFF, 4, job_id="6") is not None


def test_starts_that_are_cut_off_end_some_day() -> None:
    cut = [attempt(step_before=4)] * MAX_CUT_OFF
    refusal = refused(cut, 4)
    assert refusal is not None and refusal.action == "give_up" and f"{MAX_CUT_OFF} starts" in refusal.because
    assert refused(cut, 5) is None, "a step was done"
    assert refused(cut, 4, checkpoint=4) is None, "a checkpoint was saved"
    assert refused(cut[1:], 4) is None
    assert refused([*cut[1:], failed(4)], 4) is None, "the last one ended by itself"


def test_starts_that_are_stopped_before_a_step_end_soon() -> None:
    """With a time limit that leaves no time to train, for instance."""
    decision = decide([stopped(8)] * MAX_STOPPED, step=8)
    assert decision.action == "give_up" and "SIGUSR1" in decision.because and "--time" in decision.advice
    assert decide([stopped(8)] * (MAX_STOPPED - 1), step=8).action == "requeue"
    assert decide([stopped(8)] * MAX_STOPPED, step=9).action == "requeue"
    assert decide([stopped(step) for step in range(MAX_STOPPED * 2)]).action == "requeue", "each did a step"
    limit = "the time limit run.time_limit_s=1 is near"
    assert decide([stopped(8, limit)] * MAX_STOPPED, step=8).action == "give_up"


def test_a_run_that_repeats_lost_steps_and_saves_them_comes_further() -> None:
    """It was at step 90 when it was cut off, and saves some steps more of those that were lost each time."""
    again = [
        Attempt(
            "7", 0, ["n1"], 4, step_before, 0.0, outcome=RunState.STOPPED, detail="SIGUSR1", checkpoint_before=saved
        )
        for step_before, saved in ((90, 10), (20, 20), (30, 30), (40, 40))
    ]
    assert decide(again, step=50, checkpoint=50).action == "requeue"
    assert decide([*again, again[-1], again[-1]], step=40, checkpoint=40).action == "give_up"


@pytest.mark.parametrize(
    "ended", [{"outcome": "interrupted"}, {"outcome": "stopped", "detail": "SIGTERM on a rank"}], ids=["ended", "told"]
)
def test_starts_that_slurm_ends_without_a_step_end_some_day_too(ended: dict[str, str]) -> None:
    """Its other node is lost each time, or it is preempted."""
    fruitless = [attempt(4, **ended)] * MAX_FRUITLESS
    refusal = refused(fruitless, 4)
    assert refusal is not None and refusal.action == "give_up" and f"{MAX_FRUITLESS} " in refusal.because
    assert refused(fruitless[1:], 4) is None, "it may be preempted often"
    assert refused(fruitless, 5) is None
