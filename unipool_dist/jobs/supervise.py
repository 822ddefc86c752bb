"""``python -m unipool_dist.jobs RUN``: the batch script's whole work, on the first node of the job.

Starts the run's tasks through srun on the available nodes, waits for them, records how they ended, and requeues the job
if the run is to be continued. All of its state is in files: it may be killed at any moment.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from unipool_dist.base.belongings import any_file, remove
from unipool_dist.base.console import guard_streams, say, say_at_once
from unipool_dist.base.exit_statuses import RESUME, meaning
from unipool_dist.base.programs import run_program, shown
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.errors import UnipoolError
from unipool_dist.jobs import slurm
from unipool_dist.jobs.folder import JobFolder, run_config
from unipool_dist.jobs.policy import (
    ENDED_BY_SLURM,
    Decision,
    after_doctor,
    after_tasks,
    may_examine,
    may_start,
    outcome_of,
)
from unipool_dist.jobs.preparation import task_command
from unipool_dist.jobs.requeue import requeue
from unipool_dist.jobs.takeover import wait_for_run
from unipool_dist.jobs.task_layout import Layout, choose_layout
from unipool_dist.jobs.tasks import doctor_command, task_environment, train_command
from unipool_dist.run.attempts import Attempt, AttemptLog
from unipool_dist.run.heartbeat import Heartbeat, read_heartbeat
from unipool_dist.run.state import RunState


class Supervisor:
    """One job of SLURM, or one task of a job array.

    Args:
        root: where the job folder is.
        variables: the environment of the batch script.
    """

    def __init__(self, root: Path, variables: Mapping[str, str]) -> None:
        self._folder = JobFolder(root)
        self._job = self._folder.read()
        index = int(variables.get("SLURM_ARRAY_TASK_ID", 0))
        if index >= len(self._job.runs):
            raise UnipoolError(
                f"array task {index} has no run: {root} holds {len(self._job.runs)}; submit with --sweep"
            )
        self._run_dir = root / self._job.runs[index]
        self._config = run_config(self._run_dir)
        try:
            self._job_id = variables["SLURM_JOB_ID"]
            self._nodes = slurm.host_names(variables["SLURM_JOB_NODELIST"])
        except KeyError as error:
            raise UnipoolError(f"{error} is not set: this is what a job's batch script runs; use `submit`") from None
        # In an array SLURM_JOB_ID may be the number of all its tasks, and a requeue of that one of them all.
        array = variables.get("SLURM_ARRAY_JOB_ID")
        self._slurm_name = f"{array}_{index}" if array else self._job_id
        self._restart = int(variables.get("SLURM_RESTART_COUNT", 0))
        self._log = AttemptLog.read(RunDirectory(self._run_dir).job)
        self._ended_by: signal.Signals | None = None

    def run(self) -> int:
        """Supervise the job; return its exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        before = read_heartbeat(self._run_dir)
        step = before.step if before else 0
        self._say(self._greeting(before))
        if self._is_finished(before):
            self._say(f"the run is finished (step {step} of {self._config.train.steps}): nothing to do")
            return 0
        refusal = may_start(self._log.attempts, self._job_id, step=step, checkpoint=self._newest_checkpoint())
        if refusal is not None:
            return self._give_up(refusal)
        profile = self._folder.profile()
        layout = choose_layout(
            self._config,
            self._nodes,
            self._job.tasks_per_node,
            whole_nodes=profile.launcher == "torchrun",
            from_step=self._newest_checkpoint() + 1,
        )
        self._environment = task_environment(os.environ, profile, layout, self._free_port())
        self._say(f"layout: {layout.describe()}")
        unused = self._nodes[len(layout.nodes) :]
        if unused:
            self._say(f"note: not used, since the layout does not fill them: {', '.join(unused)}")
        if self._job.doctor and not self._log.attempts:
            decision = may_examine(self._restart) or self._doctor(layout)
            if decision is not None:
                return self._carry_out(decision, RESUME)
        return self._attempt(layout, step)

    def _attempt(self, layout: Layout, step: int) -> int:
        started = time.time()
        attempt = Attempt(
            self._job_id, self._restart, list(layout.nodes), layout.num_tasks, step, round(started, 3),
            checkpoint_before=self._newest_checkpoint(),
        )  # fmt: skip
        self._log.start(attempt)
        if self._restart and wait_for_run(
            self._run_dir, self._job_id, self._restart, is_ending=lambda: self._ended_by is not None, say=self._say
        ):
            if self._ended_by is not None:
                self._log.end(ended=round(time.time(), 3), outcome=RunState.INTERRUPTED)
                return self._carry_out(ENDED_BY_SLURM, RESUME)
            self._environment["MASTER_PORT"] = self._free_port()  # the one chosen before may be taken by now
            started = time.time()  # what the former start has written since is not of this one
        status = self._srun(train_command(self._folder, self._run_dir, layout))
        beat = read_heartbeat(self._run_dir)
        # This node was cut off, and SLURM has restarted the job elsewhere: the heartbeat is not that of this start.
        taken = self._log.is_superseded()
        if taken or (beat is not None and beat.time < started):
            beat = None  # this start did not come so far
        ended_by_slurm = taken or self._ended_by is not None
        outcome = outcome_of(
            status,
            beat.state if beat else None,
            finished=self._is_finished(beat) or self._newest_checkpoint() >= self._config.train.steps,
            ended_by_slurm=ended_by_slurm,
        )
        detail = _stuck_since(self._run_dir, started) or f"its tasks ended with status {status}, {meaning(status)}"
        self._log.end(
            ended=round(time.time(), 3),
            outcome=outcome,
            status=status,
            step=beat.step if beat else None,
            detail=beat.detail or detail if beat and outcome is RunState.STOPPED else detail,
            **({"reason": beat.reason} if beat and outcome is RunState.STOPPED else {}),
        )
        decision = after_tasks(
            self._log.attempts, step=beat.step if beat else step, checkpoint=self._newest_checkpoint()
        )
        if outcome is RunState.FINISHED:
            self._say(decision.because)
            return 0
        if taken:
            self._say(f"SLURM has restarted job {self._job_id} elsewhere: its restart {self._restart}, this one, ends")
            return RESUME
        return self._carry_out(decision, RESUME if outcome is RunState.STOPPED or status == 0 else status)

    def _carry_out(self, decision: Decision, status: int) -> int:
        """Carry out the decision; return the job's exit status: ``status``, unless the decision says otherwise."""
        if decision.action == "requeue":
            return self._requeue(decision)
        if decision.action == "give_up":
            return self._give_up(decision)
        self._say(decision.because)
        if decision.advice:
            self._say(decision.advice)
        self._say_how_to_go_on()
        return status

    def _doctor(self, layout: Layout) -> Decision | None:
        """Run the doctor; return ``None`` if all is well."""
        self._say("doctor: looking at the nodes before the first start")
        path = RunDirectory(self._run_dir).doctor_status
        remove(path, any_file)
        status = self._srun(doctor_command(self._folder, self._run_dir, layout))
        verdict = path.read_text() if path.exists() else ""
        ended_by_slurm = self._ended_by is not None
        return after_doctor(status, verdict, ended_by_slurm=ended_by_slurm)

    def _srun(self, command: list[str]) -> int:
        """Run srun; return its exit status, as a shell would give it if a signal killed srun."""
        status = run_program(command, variables=self._environment, keep=False).status
        return status if status >= 0 else 128 - status

    def _free_port(self) -> str:
        """Find a free port on this node, which is the first.

        Each restart starts the search elsewhere, so that a process of an earlier one, still alive on a node that was
        cut off, does not find the new ones.
        """
        program = [str(self._folder.files.launchers / "free_port.sh")]
        done = run_program(program)
        if done.status:
            raise UnipoolError(f"no port for the tasks to meet at: {done.err.strip()}")
        return done.out.strip()

    def _requeue(self, decision: Decision) -> int:
        if not self._job.requeue:
            self._say(f"{decision.because}: the job ends, as it was submitted with --no-requeue")
            self._say_how_to_go_on()
            return RESUME
        self._say(f"{decision.because}: the job goes back into the queue and resumes from the newest whole checkpoint")
        if not requeue(self._slurm_name, self._restart, is_ending=lambda: self._ended_by is not None, say=self._say):
            self._say("if this node is off the network, SLURM restarts the job by itself; if squeue does not show it,")
            self._say_how_to_go_on()
        return RESUME

    def _give_up(self, decision: Decision) -> int:
        self._say(f"{decision.because}: the job is not started again. {decision.advice}")
        self._say_how_to_go_on()
        return 1

    def _say_how_to_go_on(self) -> None:
        self._say(f"continue with: {shown(['unipool-dist', 'submit', '--resume', self._folder.run_dir])}")

    def _newest_checkpoint(self) -> int:
        """Return the step of the newest checkpoint; 0 if there is none, or none can be seen."""
        try:
            return max(CheckpointDirectory(self._run_dir).steps(), default=0)
        except OSError:
            return 0

    def _greeting(self, before: Heartbeat | None) -> str:
        times = f", restart {self._restart}" if self._restart else ""
        plural = "s" if len(self._nodes) > 1 else ""
        where = f"{self._job.name} on {len(self._nodes)} node{plural} ({', '.join(self._nodes)})"
        if before is None:
            return f"job {self._job_id}{times}: {where}; the run begins"
        return f"job {self._job_id}{times}: {where}; {before.step} of {before.steps} steps were done before"

    def _is_finished(self, before: Heartbeat | None) -> bool:
        return before is not None and before.state is RunState.FINISHED and before.step >= self._config.train.steps

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Take note that SLURM ends the job: wait for the tasks, which SLURM signals itself, and start nothing more."""
        if self._ended_by is None:
            self._ended_by = signal.Signals(number)
            say_at_once(f"[{_now()}] {self._ended_by.name} from SLURM: the job is being ended", descriptor=1)

    def _say(self, line: str) -> None:
        say(f"[{_now()}] {line}")


def _stuck_since(run_dir: Path, started: float) -> str | None:
    """Return the watchdog's summary, if it ended this attempt; srun's status says only that a task was killed."""
    try:
        times = {path: path.stat().st_mtime for path in RunDirectory(run_dir).watchdog_summaries()}
        newest = max(times, key=times.__getitem__, default=None)
        if newest is None or times[newest] < started:
            return None
        lines = newest.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # which may be why the run was stuck; it is requeued all the same
        return None
    return lines[0] if lines else "the watchdog ended it"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def main(arguments: list[str]) -> int:
    """Run the batch script's program."""
    guard_streams()
    if len(arguments) != 1:
        say("usage: python -m unipool_dist.jobs RUN", err=True)
        return 2
    try:
        job = JobFolder(Path(arguments[0])).read()
        if job.preparation:
            command = task_command(job, os.environ)
            os.execv(command[0], command)
        return Supervisor(Path(arguments[0]), os.environ).run()
    except UnipoolError as error:
        say(f"error: {error}", err=True)
    except OSError as error:  # without its files it can decide nothing
        say(
            f"error: the job's files cannot be used: {error}. The checkpoints are as they were; once that is dealt "
            f"with, continue with: {shown(['unipool-dist', 'submit', '--resume', arguments[0]])}",
            err=True,
        )
    return 1
