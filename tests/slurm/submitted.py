"""A run that was submitted with ``unipool-dist submit``, and what becomes of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import psutil

from tests.slurm.cluster import ENDED, Cluster, Job
from tests.slurm.machines import command_of
from tests.support.running import train_records
from tests.support.runs import TINY_RUN
from unipool_dist.run.attempts import Attempt, AttemptLog
from unipool_dist.run.heartbeat import Heartbeat, read_heartbeat

STEPS = 60  # from about the eightieth on rounding shows in the fifth digit, on other layouts without any fault
# 12 sequences and 12 experts: 1, 2, 3 and 4 nodes all fit. A larger epsilon: Adam's first steps would otherwise turn
# differences of rounding into differences of the loss.
SETTINGS = (
    *TINY_RUN,
    f"train.steps={STEPS}",
    "train.global_batch_size=12",
    "train.micro_batch_size=1",
    "train.eval_sequences=0",
    "pool.num_experts=12",
    # Every expert serves every token. Of two that a router finds equal to seven digits rounding would choose, and so
    # another one on another layout, some time in the 100,000 choices of a run; from there on the losses would differ.
    "pool.top_k=12",
    "optimizer.epsilon=1e-5",
    "log.tensorboard=false",
    "checkpoint.interval=10",
)
COLUMNS = ("loss", "grad_norm", "aux_loss")
_SLURM_EVERY_S = 0.5  # each question costs the trainers, on the same cores, some of their time; files cost nothing


@dataclass
class Recovery:
    """How long it took a run to come back, from the fault on, in seconds."""

    fault: str
    requeued_s: float
    restarted_s: float
    """Tasks of the run were started again; the tests shorten SLURM's hold of a requeued job."""
    training_s: float
    """The first step was completed."""
    lost_steps: int


RECOVERIES: list[Recovery] = []
"""Of all tests so far, printed at the end of the session."""


class SubmittedRun:
    """A run on ``cluster`` in ``run_dir``; ``submit`` first."""

    def __init__(self, cluster: Cluster, run_dir: Path, user: str = "root") -> None:
        self.cluster, self.run_dir, self.user = cluster, run_dir, user
        self.job_id = 0

    def submit(self, corpus: Path, *options: str, overrides: Sequence[str] = (), profile: str = "") -> str:
        """Submit it with ``options`` of submit; returns what that says."""
        folder = self.run_dir.parent
        config, profile_path = folder / "tiny.yaml", folder / "profile.yaml"
        config.write_text("{}\n")
        profile_path.write_text(f"{profile}\n")
        settings = (*SETTINGS, f"data.path={corpus}", f"run.dir={self.run_dir}", *overrides)
        return self._call(str(config), *settings, f"--profile={profile_path}", *options)

    def submit_again(self, *options: str) -> str:
        """``submit --resume``."""
        return self._call("--resume", str(self.run_dir), *options)

    def _call(self, *arguments: str) -> str:
        done = self.cluster.run(
            ["python", "-m", "unipool_dist", "submit", *arguments], user=self.user, cwd=self.run_dir.parent
        )
        match = re.search(r"^job (\d+) is submitted", done.stdout, re.MULTILINE)
        assert match, done.stdout + done.stderr
        self.job_id = int(match[1])
        return done.stdout

    def beat(self) -> Heartbeat | None:
        return read_heartbeat(self.run_dir)

    def attempts(self) -> list[Attempt]:
        return AttemptLog.read(self.run_dir / "job").attempts

    def _lock_holder(self) -> str:
        return (self.run_dir / ".lock").read_text()

    def log(self) -> str:
        path = self.run_dir / "logs" / f"{self.job_id}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for_step(self, step: int, timeout_s: float = 120) -> None:
        """Until ``step`` is done, in the present start of the job."""
        self._until(f"step {step}", lambda: (beat := self.beat()) is not None and beat.step >= step, timeout_s)

    def wait_for_end(self, state: str = "COMPLETED", timeout_s: float = 180, num_restarts: int = 0) -> Job:
        """Until the job has ended in ``state``."""
        job = self._until_job(state, lambda job: job.state in ENDED and job.num_restarts >= num_restarts, timeout_s)
        assert job.state == state, f"{job.state}, not {state}:\n{self.log()[-6000:]}"
        return job

    def recover(
        self,
        fault: str,
        do: Callable[[], object],
        timeout_s: float = 120,
        *,
        before_restart: Callable[[], object] = lambda: None,
        handed_over: bool = False,
    ) -> Recovery:
        """Let something happen to the run that trains; return once it trains again.

        With ``handed_over`` the former start does further steps while the new one begins, which must not be lost.
        """
        restarts = self.cluster.job(self.job_id).num_restarts
        starts, holder = len(self.attempts()), self._lock_holder()
        started = time.monotonic()
        do()
        self._until_job("a requeue", lambda job: job.num_restarts > restarts, timeout_s)
        requeued_s = time.monotonic() - started
        before_restart()
        self.cluster.release(self.job_id)
        self._until("a new start", lambda: len(self.attempts()) > starts, timeout_s)
        restarted_s, since = time.monotonic() - started, time.time()

        def trains() -> bool:
            """The new start, not a former one that nobody has ended, nor what that has left behind."""
            if self._lock_holder() == holder or (beat := self.beat()) is None or beat.state == "stopped":
                return False
            return beat.time > since and beat.step > beat.resumed_from

        self._until("training", trains, timeout_s)
        resumed, done = self.beat(), self.attempts()[starts].step_before
        assert resumed is not None
        recovery = Recovery(
            fault,
            round(requeued_s, 1),
            round(restarted_s, 1),
            round(time.monotonic() - started, 1),
            max(0, done - resumed.resumed_from),
        )
        RECOVERIES.append(recovery)
        went_well = resumed.resumed_from >= done if handed_over else 0 < resumed.resumed_from <= done
        assert went_well, f"resumed from step {resumed.resumed_from}, {done} were done:\n{self.log()[-6000:]}"
        return recovery

    def check_losses(self, reference: dict[str, list[float]]) -> None:
        """Every step is recorded once, with the values of the uninterrupted run."""
        found = columns(self.run_dir)
        for name in COLUMNS:
            np.testing.assert_allclose(found[name], reference[name], rtol=1e-4, err_msg=name)

    def check_nothing_runs(self, grace_s: float = 5) -> None:
        """Once the job has ended: no node that has power still has a process that trains, a cut-off one included."""
        until = time.monotonic() + grace_s
        while left := {node: found for node in self.cluster.nodes if (found := trainers(self.cluster, node))}:
            assert time.monotonic() < until, f"left running: {left}\n{self.log()[-6000:]}"
            time.sleep(_SLURM_EVERY_S)

    def _until(self, what: str, condition: Callable[[], bool], timeout_s: float) -> None:
        """Until what the run's files tell fulfils ``condition``; fails when the job has ended without it."""
        until, asked = time.monotonic() + timeout_s, 0.0
        while not condition():
            if (now := time.monotonic()) - asked >= _SLURM_EVERY_S:
                job = self.cluster.job(self.job_id)
                if now > until or (job.state in ENDED and not condition()):
                    self._fail(what, job)
                asked = time.monotonic()
            time.sleep(0.1)

    def _until_job(self, what: str, condition: Callable[[Job], bool], timeout_s: float) -> Job:
        """Until what SLURM knows of the job fulfils ``condition``; fails when it has ended without it."""
        until = time.monotonic() + timeout_s
        while not condition(job := self.cluster.job(self.job_id)):
            if time.monotonic() > until or job.state in ENDED:
                self._fail(what, job)
            time.sleep(_SLURM_EVERY_S)
        return job

    def _fail(self, what: str, job: Job) -> NoReturn:
        raise AssertionError(f"waited for {what} in vain; job {job.state}:\n{self.log()[-6000:]}")


def trainers(cluster: Cluster, node: str) -> list[psutil.Process]:
    """Processes on the node that train."""
    return [process for process in cluster.processes(node) if "train" in command_of(process)[1:8]]


def columns(run_dir: Path) -> dict[str, list[float]]:
    """What each column of the metrics is, step by step; each step must be there once."""
    records = train_records(run_dir)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    return {name: [record[name] for record in records] for name in COLUMNS}


def table() -> list[str]:
    """The recoveries so far, as lines."""
    lines = [f"{'fault':44}{'requeued':>10}{'restarted':>11}{'training':>10}{'steps lost':>12}"]
    for item in RECOVERIES:
        lines.append(
            f"{item.fault:44}{item.requeued_s:8.1f} s{item.restarted_s:9.1f} s{item.training_s:8.1f} s"
            f"{item.lost_steps:12}"
        )
    return lines
