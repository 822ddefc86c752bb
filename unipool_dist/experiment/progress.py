"""The progress of an experiment's run, from the files that training leaves in its directory."""

from __future__ import annotations

from dataclasses import dataclass

from unipool_dist.experiment.planned import Run
from unipool_dist.observe.jsonlines import read_json_lines
from unipool_dist.run.condition import Condition, read_condition
from unipool_dist.run.lock import holder_of
from unipool_dist.run.state import RunState


@dataclass(frozen=True)
class Progress:
    """The progress of a run."""

    state: RunState
    """``waiting``: not started; ``training``: a process holds its lock; ``stopped``: to be continued."""
    step: int
    """The last that was completed."""
    steps: int
    checkpoint: int | None = None
    """Step of the newest checkpoint, from which an unfinished run resumes."""
    detail: str | None = None
    """Who is running it; how it failed."""
    loss: float | None = None
    """Final loss, mean over the domains in nats per token; ``None`` if not finished or not evaluated."""
    time_s: float | None = None
    """Time of all its starts together, as far as their ends were seen."""

    def describe(self) -> str:
        """Describe it in words: ``done``, ``step 30 of 200``, ``failed after step 30 of 200``."""
        where = f"step {self.step} of {self.steps}"
        if self.state is RunState.TRAINING:
            return f"running, {where}"
        if self.state is RunState.FAILED:
            return f"failed after {where}" if self.step else "failed before its first step"
        if self.state is RunState.STOPPED:
            return where if self.checkpoint is not None else f"{where}, no checkpoint"
        return "done" if self.state is RunState.FINISHED else "not started"


def progress_of(run: Run) -> Progress:
    """Return the present progress of ``run``."""
    condition = read_condition(run.directory)
    beat, checkpoint = condition.beat, condition.checkpoint
    step, steps = (beat.step, beat.steps) if beat else (0, run.config.train.steps)
    holder = holder_of(run.directory)
    state, detail = _state(condition, holder)
    if state is RunState.FAILED and condition.attempts[-1].step is None:
        step = checkpoint or 0  # what it had done before is still there, if it has a checkpoint
    times = [attempt.ended - attempt.started for attempt in condition.attempts if attempt.ended is not None]
    return Progress(
        state,
        step,
        steps,
        checkpoint=checkpoint,
        detail=detail,
        loss=_validation_after(run, step) if state is RunState.FINISHED else None,
        time_s=sum(times) if times else None,
    )


def _state(condition: Condition, holder: str | None) -> tuple[RunState, str | None]:
    """Return state and detail; only a lock that is held shows that a run is training."""
    if holder is not None:
        return RunState.TRAINING, holder
    if condition.state in (RunState.FINISHED, RunState.FAILED):
        return condition.state, condition.detail
    return RunState.WAITING if condition.beat is None else RunState.STOPPED, None


def _validation_after(run: Run, step: int) -> float | None:
    path = run.files.metrics
    if not path.exists():
        return None
    losses: list[float] = []
    for record in read_json_lines(path):
        if "validation" in record and record["step"] == step:
            losses = list(record["validation"].values())
    return sum(losses) / len(losses) if losses else None
