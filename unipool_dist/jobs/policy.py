"""Whether a run whose tasks have ended is restarted: pure, from what is known of the starts of its job.

Only the starts of the present job count: submitting a run again is a request to try it again.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from unipool_dist.base.exit_statuses import signal_of
from unipool_dist.base.stopping import StopReason
from unipool_dist.run.attempts import Attempt
from unipool_dist.run.state import RunState

# How many starts without progress are enough. Others may lie between them that came no further either.
MAX_CUT_OFF = 5
"""Fruitless starts that were cut off: nodes lost, or killed without a warning."""
MAX_STOPPED = 3
"""Fruitless starts that were stopped by their time limit, or by hand."""
MAX_FRUITLESS = 10
"""Fruitless starts of any kind. Larger, as preemptions and bad nodes are temporary."""


@dataclass(frozen=True)
class Decision:
    """The next action of the batch script."""

    action: Literal["end", "requeue", "give_up"]
    because: str
    advice: str = ""
    """What to do before the run is submitted again."""


ENDED_BY_SLURM = Decision(
    "end",
    "SLURM is ending the job (cancelled, preempted, requeued, its time is up, or a node lost)",
    "SLURM starts it again by itself after a preemption, a requeue or the loss of a node. If its time was up, the "
    "warning came too late to save: lengthen it (#SBATCH --signal in the run's job/job.sbatch); then",
)


def may_start(attempts: Iterable[Attempt], job_id: str, *, step: int, checkpoint: int) -> Decision | None:
    """Return ``give_up`` if recent attempts made no progress, so that another restart is pointless; else ``None``.

    Args:
        step: the run's last step.
        checkpoint: step of its newest checkpoint; 0: there is none.
    """
    fruitless = _fruitless([attempt for attempt in attempts if attempt.job_id == job_id], step, checkpoint)
    stopped = [attempt for attempt in fruitless if attempt.outcome is RunState.STOPPED and not _is_preemption(attempt)]
    num_cut_off = sum(attempt.outcome is None for attempt in fruitless)
    nothing_new = f"without a step or a checkpoint beyond step {step}"
    if len(stopped) >= MAX_STOPPED:
        return Decision(
            "give_up",
            f"{len(stopped)} starts of this job were stopped {nothing_new}, the last one by: {stopped[-1].detail}",
            "Give a start the time to train: a longer --time, or run.time_limit_s in the run's job/config.yaml; then",
        )
    if num_cut_off >= MAX_CUT_OFF:
        return Decision(
            "give_up",
            f"{num_cut_off} starts of this job were cut off (nodes lost, or killed without a warning) {nothing_new}",
            "See what becomes of its nodes (sinfo --list-reasons) and of its memory; then",
        )
    if len(fruitless) >= MAX_FRUITLESS:
        return Decision(
            "give_up",
            f"{len(fruitless)} starts of this job have ended {nothing_new}: {_kinds(fruitless)}",
            "See above what ended them. If they only lacked time for the next checkpoint, lower checkpoint.interval in "
            "the run's job/config.yaml; then",
        )
    return None


def after_tasks(attempts: Sequence[Attempt], *, step: int, checkpoint: int) -> Decision:
    """Decide what to do after the last of ``attempts`` has ended; other arguments as in :func:`may_start`."""
    last = attempts[-1]
    if last.outcome is RunState.FINISHED:
        return Decision("end", "the run is finished")
    if last.outcome is RunState.INTERRUPTED:
        return ENDED_BY_SLURM
    if last.outcome is RunState.STOPPED and last.reason is not None and last.reason.is_final:
        if last.reason is StopReason.CALLBACK:
            return Decision("end", f"the run was stopped by a callback, which would stop it again ({last.detail})")
        return Decision("end", "the run was stopped by SIGINT, which means: save, and do not start again")
    if last.outcome is RunState.FAILED and last.status is not None and signal_of(last.status) == signal.SIGINT:
        return Decision("end", "the run was ended by a second SIGINT, without a save; it is not started again")
    earlier = [attempt for attempt in attempts[:-1] if attempt.job_id == last.job_id]
    if last.outcome is RunState.STOPPED:
        decision = Decision("requeue", f"the run was stopped and its state saved ({last.detail})")
    else:
        decision = _after_failure(last, earlier)
    if decision.action != "requeue":
        return decision
    return may_start([*earlier, last], last.job_id, step=step, checkpoint=checkpoint) or decision


def may_examine(restart: int) -> Decision | None:
    """Decide like :func:`may_start`, for the doctor before the run's first start.

    ``restart``: how often the job was restarted; all of these starts ended before the end of the doctor.
    """
    if restart < MAX_FRUITLESS:
        return None
    because = f"{restart} starts of this job have ended before doctor had come to a verdict"
    return Decision("give_up", because, "See above what ended them; then")


def after_doctor(status: int, verdict: str, *, ended_by_slurm: bool) -> Decision | None:
    """Decide what to do when the doctor before the first start has ended; ``None``: start the run.

    Args:
        status: of its tasks.
        verdict: its exit status, even if caused by a signal; empty: it reached none.
    """
    if ended_by_slurm:
        return ENDED_BY_SLURM
    said = int(verdict) if verdict.strip() else 0
    if status == said == 0:
        return None
    number = signal_of(said or status)  # torchrun turns what a signal did to its processes into a status of 1
    if number is None:
        because = "found faults" if said else "came to no verdict"
        advice = "Deal with what it says; then"
        return Decision("give_up", f"doctor {because} (status {said or status}, see above)", advice)
    because = f"doctor was ended by {number.name}, which is not a finding"
    if number == signal.SIGINT:
        return Decision("end", f"{because}; SIGINT means: do not start again")
    return Decision("requeue", because)


def outcome_of(status: int, state: RunState | None, *, finished: bool, ended_by_slurm: bool) -> RunState:
    """Return how an attempt has ended.

    Args:
        state: that of the heartbeat, if this attempt has written one.
        finished: whether the run has done its last step and saved it.
    """
    if status == 0 and finished:
        return RunState.FINISHED
    if ended_by_slurm or status == 0:  # srun succeeds, too, when SLURM gives up a node of it
        return RunState.INTERRUPTED
    return RunState.STOPPED if state is RunState.STOPPED else RunState.FAILED


def _after_failure(last: Attempt, earlier: Sequence[Attempt]) -> Decision:
    # A start that failed before its first step says nothing of a step: only two of them in a row count.
    compared = earlier[-1:] if last.step is None else earlier
    where = "before its first step" if last.step is None else f"after step {last.step}"
    if any(attempt.outcome is RunState.FAILED and attempt.step == last.step for attempt in compared):
        return Decision(
            "give_up",
            f"the run has failed twice {where}: {last.detail}",
            "The first error above it is the cause; then",
        )
    return Decision("requeue", f"the run failed {where} ({last.detail}), for the first time there")


def _fruitless(attempts: Sequence[Attempt], step: int, checkpoint: int) -> list[Attempt]:
    """Return the last attempts since which the run has neither done a new step nor saved a new checkpoint.

    A step alone does not tell: a run that has lost some repeats them, and each new checkpoint is progress meanwhile.
    """
    fruitless: list[Attempt] = []
    furthest = newest = -1
    for attempt in attempts:
        if attempt.step_before > furthest or attempt.checkpoint_before > newest:
            fruitless = []
        furthest, newest = max(furthest, attempt.step_before), max(newest, attempt.checkpoint_before)
        fruitless.append(attempt)
    return [] if step > furthest or checkpoint > newest else fruitless


def _is_preemption(attempt: Attempt) -> bool:
    """Return whether it was preempted: SLURM then sends SIGTERM, and only to the tasks of a job with a grace time."""
    return attempt.reason is StopReason.TERMINATED


def _kinds(attempts: Sequence[Attempt]) -> str:
    names = {
        None: "cut off",
        RunState.INTERRUPTED: "ended by SLURM",
        RunState.STOPPED: "stopped",
        RunState.FAILED: "failed",
    }
    counts = {name: sum(attempt.outcome == kind for attempt in attempts) for kind, name in names.items()}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)
