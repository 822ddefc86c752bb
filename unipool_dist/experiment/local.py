"""Train the runs of an experiment on this machine, several at a time, each in its own processes."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unipool_dist.base.exit_statuses import RESUME
from unipool_dist.base.machine import cores_here, gpus_here, share_of_machine
from unipool_dist.base.programs import Process, start_program
from unipool_dist.errors import RunLockedError
from unipool_dist.experiment.planned import Run
from unipool_dist.experiment.progress import progress_of
from unipool_dist.jobs.freeze import freeze_config
from unipool_dist.resilience.orphans import LAUNCHER_PID
from unipool_dist.resilience.signal_watch import SignalWatch, hold_signals
from unipool_dist.run.attempts import LOCAL, Attempt, AttemptLog
from unipool_dist.run.heartbeat import read_heartbeat
from unipool_dist.run.lock import RunLock
from unipool_dist.run.state import RunState

_LOOK_EVERY_S = 0.2


@dataclass
class _Training:
    run: Run
    process: Process
    claim: RunLock
    attempts: AttemptLog
    place: int
    log: Path
    log_start: int
    """Bytes of the log that earlier starts had written."""


class LocalTrainings:
    """Trainings of runs in their order, ``num_at_once`` at a time; one that fails does not stop the others.

    SIGTERM, SIGINT, SIGUSR1 and SIGHUP are passed on to the runs in progress, which save and stop, and no other is
    started.

    Args:
        tell: called with a line for each event.
        look: called several times a second.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        num_at_once: int,
        num_processes: int,
        tell: Callable[[str], None],
        look: Callable[[], None],
    ) -> None:
        self._waiting = deque(runs)
        self._num_at_once, self._num_processes = num_at_once, num_processes
        self._tell, self._look = tell, look
        self._under_way: list[_Training] = []
        self._starting = threading.Lock()  # a signal comes before a start, which then is none, or reaches what started
        self.stopped_by: signal.Signals | None = None
        self.failed: list[Run] = []
        self.stopped: list[Run] = []
        """Runs that ended with their state saved, to be resumed."""

    def train(self) -> None:
        """Train until all have ended, or the runs in progress have stopped after a signal."""
        with SignalWatch(self._on_signal):
            while self._under_way or (self._waiting and self.stopped_by is None):
                while self._waiting and len(self._under_way) < self._num_at_once and self.stopped_by is None:
                    self._begin(self._waiting.popleft())
                for training in [item for item in self._under_way if item.process.poll() is not None]:
                    self._end(training)
                self._look()
                time.sleep(_LOOK_EVERY_S)

    def _begin(self, run: Run) -> None:
        claim = RunLock(run.files.job)  # not the run's own lock, which the training takes once it has begun
        try:
            claim.acquire()
        except RunLockedError:
            self._tell(f"{run.name}: another `unipool-dist experiment` is at it; left to that")
            return
        progress = progress_of(run)  # another command may have trained it since this one began
        if progress.state in (RunState.TRAINING, RunState.FINISHED):
            self._tell(f"{run.name}: {progress.describe()}; left alone")
            claim.release()
            return
        freeze_config(run.directory.absolute(), run.config)
        place = min(set(range(self._num_at_once)) - {item.place for item in self._under_way})
        log = run.files.train_log
        log.parent.mkdir(mode=0o700, exist_ok=True)
        with self._starting, log.open("ab") as output, hold_signals():
            if self.stopped_by is not None:
                claim.release()
                return
            attempts = AttemptLog.read(run.files.job)
            attempts.start(
                Attempt(LOCAL, 0, [socket.gethostname()], self._num_processes, progress.step, round(time.time(), 3))
            )
            log_start = output.tell()
            # In a session of its own: a terminal's signals come to this command alone, which passes them on once.
            process = start_program(self._command(run), output=output, variables=self._environment(place))
            self._under_way.append(_Training(run, process, claim, attempts, place, log, log_start))
        again = f" from step {progress.checkpoint}" if progress.checkpoint else " again" if progress.step else ""
        self._tell(f"{run.name}: started{again}")

    def _command(self, run: Run) -> list[str]:
        # A single process needs no launcher, which would have to import torch too.
        processes = ["--nproc", str(self._num_processes)] if self._num_processes > 1 else []
        config = str(run.files.job_config.absolute())
        # --resume begins where there is no checkpoint.
        return [sys.executable, "-P", "-m", "unipool_dist", "train", config, "--resume", *processes]

    def _environment(self, place: int) -> dict[str, str]:
        share = share_of_machine(
            os.environ,
            place=place,
            num_at_once=self._num_at_once,
            num_processes=self._num_processes,
            gpus=gpus_here(os.environ),
            cores=cores_here(),
        )
        return share | {LAUNCHER_PID: str(os.getpid())}

    def _end(self, training: _Training) -> None:
        with self._starting:  # a signal must not be sent to a process that has ended
            self._under_way.remove(training)
        run, status = training.run, training.process.returncode
        started = training.attempts.attempts[-1].started
        beat = read_heartbeat(run.directory)
        if beat is not None and beat.time < started:
            beat = None  # that of an earlier start: this one did not come so far
        outcome = self._outcome(status)
        training.attempts.end(
            ended=round(time.time(), 3),
            outcome=outcome,
            status=status,
            step=beat.step if beat else None,
            **({"reason": beat.reason} if beat and outcome is RunState.STOPPED else {}),
            detail=_first_error(training) or _meaning(status) if outcome is RunState.FAILED else None,
        )
        progress = progress_of(run)
        training.claim.release()
        if outcome is RunState.FINISHED:
            loss = "" if progress.loss is None else f", validation loss {progress.loss:.4f}"
            self._tell(f"{run.name}: done{loss}")
        elif outcome is RunState.FAILED:
            self.failed.append(run)
            self._tell(f"{run.name}: {progress.describe()}: {progress.detail}")
        else:
            self.stopped.append(run)
            self._tell(f"{run.name}: stopped at {progress.describe()}")

    def _outcome(self, status: int) -> RunState:
        if status == 0:
            return RunState.FINISHED
        if status == RESUME:
            return RunState.STOPPED
        return RunState.FAILED if self.stopped_by is None else RunState.INTERRUPTED

    def _on_signal(self, number: signal.Signals) -> None:
        with self._starting:
            first, self.stopped_by = self.stopped_by is None, self.stopped_by or number
            for training in self._under_way:
                training.process.send_signal(number)
        if first:
            self._tell(f"{number.name}: the runs in progress save and stop; a second signal ends them at once")


def _first_error(training: _Training) -> str | None:
    """Return the line with which this start reports an error: the first one is the cause."""
    with training.log.open("rb") as file:
        file.seek(training.log_start)
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return next((line for line in lines if line.startswith("error")), None)


def _meaning(status: int) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"
