"""Whether a run whose tasks have ended is to be started again: pure, from what is known of all its starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from unipool_dist.jobs.attempts import Attempt, Outcome

MAX_CUT_OFF = 5
"""Starts in a row that are cut off without completing a step, after which the run is not started again."""


@dataclass(frozen=True)
class Decision:
    """What the batch script does now."""

    action: Literal["end", "requeue", "give_up"]
    because: str


def may_start(attempts: Sequence[Attempt], step: int) -> Decision | None:
    """``give_up`` if the last starts were all cut off at ``step``, so that one more promises nothing; else ``None``."""
    fruitless = 0
    for attempt in reversed(attempts):
        if attempt.outcome is not None or attempt.step_before != step:
            break
        fruitless += 1
    if fruitless < MAX_CUT_OFF:
        return None
    return Decision(
        "give_up",
        f"the last {fruitless} starts were cut off (nodes lost, or killed without a warning) before one more step than "
        f"{step} was done",
    )


def after_tasks(attempts: Sequence[Attempt], *, reason: str | None) -> Decision:
    """What to do after the last of ``attempts`` has ended. ``reason``: why the run was stopped, if it was."""
    last = attempts[-1]
    if last.outcome == "finished":
        return Decision("end", "the run is finished")
    if last.outcome == "interrupted":
        return Decision("end", "SLURM is ending the job (cancelled, preempted, requeued, or its time is up)")
    if last.outcome == "stopped":
        if reason is not None and "SIGINT" in reason:
            return Decision("end", "the run was stopped by SIGINT, which means: save, and do not start again")
        return Decision("requeue", f"the run was stopped and its state saved ({reason})")
    # A start that failed before its first step says nothing of a step: only two of them in a row count.
    earlier = attempts[-2:-1] if last.step is None else attempts[:-1]
    where = "before its first step" if last.step is None else f"after step {last.step}"
    if any(attempt.outcome == "failed" and attempt.step == last.step for attempt in earlier):
        return Decision("give_up", f"the run has failed twice {where}: {last.detail}")
    return Decision("requeue", f"the run failed {where} ({last.detail}), for the first time there")


def outcome_of(status: int, state: str | None, *, ended_by_slurm: bool) -> Outcome:
    """How an attempt has ended. ``state``: that of the heartbeat, if this attempt has written one."""
    if status == 0:
        return "finished"
    if ended_by_slurm:
        return "interrupted"
    if state == "stopped":
        return "stopped"
    return "failed"
