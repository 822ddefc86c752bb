"""How far a run of an experiment is, from the files that training leaves in its directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.experiment.plan import Run
from unipool_dist.observe.jsonlines import read_json_lines
from unipool_dist.run.attempts import AttemptLog
from unipool_dist.run.heartbeat import read_heartbeat
from unipool_dist.run.lock import holder_of

State = Literal["not started", "running", "stopped", "failed", "done"]


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    state: State
    """``running``: a process is writing into its directory; ``stopped``: it is to go on, or was cut off."""
    step: int
    """The last that was completed."""
    steps: int
    checkpoint: int | None = None
    """Step of the newest checkpoint, which a run that is not done goes on from."""
    detail: str | None = None
    """Who is running it; how it failed."""
    loss: float | None = None
    """Of a run that is done: nats per token, mean over the domains after its last step; ``None`` if not evaluated."""
    time_s: float | None = None
    """Of all its starts together, as far as their ends were seen."""

    def describe(self) -> str:
        """In words: ``done``, ``step 30 of 200``, ``failed after step 30 of 200``."""
        where = f"step {self.step} of {self.steps}"
        if self.state == "running":
            return f"running, {where}"
        if self.state == "failed":
            return f"failed after {where}" if self.step else "failed before its first step"
        if self.state == "stopped":
            return where if self.checkpoint is not None else f"{where}, no checkpoint"
        return self.state


def progress_of(run: Run) -> Progress:
    """How far ``run`` is now."""
    beat = read_heartbeat(run.directory)
    attempts = AttemptLog.read(run.files.job).attempts
    checkpoints = CheckpointDirectory(run.directory).steps()
    last = attempts[-1] if attempts else None
    step, steps = (beat.step, beat.steps) if beat else (0, run.config.train.steps)
    holder = holder_of(run.directory)
    state: State = "stopped" if beat else "not started"
    detail = None
    if holder is not None:
        state, detail = "running", holder
    elif beat is not None and step >= steps and (beat.state == "finished" or steps in checkpoints):
        state = "done"
    elif last is not None and last.outcome == "failed":
        state, detail = "failed", last.detail
        if last.step is None:  # what it had done before is still there, if it has a checkpoint
            step = checkpoints[-1] if checkpoints else 0
    times = [attempt.ended - attempt.started for attempt in attempts if attempt.ended is not None]
    return Progress(
        state,
        step,
        steps,
        checkpoint=checkpoints[-1] if checkpoints else None,
        detail=detail,
        loss=_validation_after(run, step) if state == "done" else None,
        time_s=sum(times) if times else None,
    )


def _validation_after(run: Run, step: int) -> float | None:
    path = run.files.metrics
    if not path.exists():
        return None
    losses: list[float] = []
    for record in read_json_lines(path):
        if "validation" in record and record["step"] == step:
            losses = list(record["validation"].values())
    return sum(losses) / len(losses) if losses else None
