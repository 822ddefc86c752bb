"""Jobs on a SLURM cluster: submitting them, seeing what becomes of them; and making the cluster well again."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.slurm.machines import ClusterError, Machines

USER = "trainer"
_SLURM_EVERY_S = 0.5  # each question costs the trainers, on the same cores, some of their time
_NO_ANSWER = re.compile(r"timed out|unable to contact|connection (failure|refused)|zero bytes", re.IGNORECASE)
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "DEADLINE", "BOOT_FAIL"})


@dataclass(frozen=True)
class Job:
    """A job as SLURM sees it now; ``fields`` is all that ``scontrol show job`` says, by its names."""

    fields: Mapping[str, str]

    @property
    def id(self) -> int:
        return int(self.fields["JobId"])

    @property
    def state(self) -> str:
        """``PENDING``, ``RUNNING``, ``COMPLETING``, ``COMPLETED``, ``FAILED``, ..."""
        return self.fields["JobState"]

    @property
    def reason(self) -> str:
        return self.fields["Reason"]

    @property
    def num_restarts(self) -> int:
        """How often it was requeued."""
        return int(self.fields["Restarts"])

    @property
    def exit_code(self) -> int:
        """Exit status of the batch script; 0 if a signal ended it."""
        return int(self.fields["ExitCode"].split(":")[0])

    @property
    def signal(self) -> int:
        """The signal that ended the batch script; 0 if none did."""
        return int(self.fields["ExitCode"].split(":")[1])

    @property
    def nodes(self) -> tuple[str, ...]:
        """Where it runs, or ran last."""
        listed = self.fields["NodeList"]
        return tuple(expand_nodes(listed)) if listed != "(null)" else ()

    @property
    def log(self) -> Path:
        """What the job says."""
        return Path(self.fields["StdOut"])

    @property
    def requeued_at_s(self) -> float:
        """When it was submitted or last requeued, in whole seconds of Unix time."""
        return datetime.fromisoformat(self.fields["SubmitTime"]).timestamp()


def expand_nodes(listed: str) -> Iterator[str]:
    """The nodes of a list such as ``n[1-2,4]`` or ``n3``."""
    numbers = listed.removeprefix("n").strip("[]")
    for part in numbers.split(","):
        first, _, last = part.partition("-")
        yield from (f"n{i}" for i in range(int(first), int(last or first) + 1))


def parse_jobs(text: str) -> list[Job]:
    """The jobs in what ``scontrol --oneliner show job`` prints."""
    lines = [line for line in text.splitlines() if line.startswith("JobId=")]
    return [Job(dict(re.findall(r"(?:^| )([A-Z][\w:/]*)=(.*?)(?= [A-Z][\w:/]*=|\s*$)", line))) for line in lines]


class Cluster(Machines):
    """Machines with SLURM. Partition ``main`` is for all jobs; those in ``urgent`` preempt them, by a requeue."""

    def submit(
        self,
        script: str | Sequence[str | Path],
        *options: str,
        user: str = "root",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> int:
        """Submit a batch script, given as its text or as one command, with options of sbatch; returns the job's id.

        The log is ``shared/job-ID.log``, appended to after a requeue, and the time limit ten minutes, unless the
        options say otherwise.
        """
        text = script if isinstance(script, str) else f"exec {shlex.join(map(str, script))}\n"
        if not text.startswith("#!"):
            text = f"#!/bin/bash\n{text}"
        defaults = [f"--output={self.shared}/job-%j.log", "--open-mode=append", "--time=10"]
        command = ["sbatch", "--parsable", *defaults, *options]
        return int(self.run(command, user=user, env=env, cwd=cwd, stdin=text).stdout.split(";")[0])

    def job(self, job_id: int) -> Job:
        """What SLURM knows of a job; it forgets a job that ended five minutes ago."""
        return parse_jobs(self.ask(["scontrol", "--oneliner", "show", "job", str(job_id)]))[0]

    def jobs(self) -> list[Job]:
        """All jobs that SLURM knows of."""
        return parse_jobs(self.ask(["scontrol", "--oneliner", "show", "job"]))

    def ask(self, command: Sequence[str], timeout_s: float = 60) -> str:
        """What a command of SLURM says that may be given twice: it is, while the controller is too busy to answer."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                return self.run(command).stdout
            except ClusterError as error:
                if not _NO_ANSWER.search(str(error)) or time.monotonic() > until:
                    raise
            time.sleep(_SLURM_EVERY_S)

    def wait(self, job_id: int, *states: str, timeout_s: float, num_restarts: int = 0) -> Job:
        """Return as soon as the job is in one of ``states`` after ``num_restarts`` requeues.

        Raises ClusterError, with the end of its log, after ``timeout_s``, or when it ended in another state.
        """
        until = time.monotonic() + timeout_s
        while True:
            job = self.job(job_id)
            if job.state in states and job.num_restarts >= num_restarts:
                return job
            if job.state in ENDED or time.monotonic() > until:
                wanted = f"{' or '.join(states)} after {num_restarts} requeues"
                raise ClusterError(f"waited for {wanted}, within {timeout_s} s, in vain:\n{self.describe(job)}")
            time.sleep(_SLURM_EVERY_S)

    def cancel(self, job_id: int) -> None:
        """``scancel``; returns at once."""
        self.run(["scancel", str(job_id)])

    def release(self, job_id: int) -> None:
        """Let a requeued job start now rather than ten seconds after it was requeued, if it has not done so already."""
        job = self.wait(job_id, "PENDING", "RUNNING", timeout_s=30)
        if job.state == "RUNNING":
            return
        # Earlier, the job would be started with a credential that was revoked, and fail.
        time.sleep(max(0.0, job.requeued_at_s + 3 - time.time()))
        try:
            self.ask(["scontrol", "update", f"jobid={job_id}", "StartTime=now"])
        except ClusterError:
            if self.job(job_id).state == "PENDING":
                raise

    def log(self, job_id: int) -> str:
        """What the job has said so far."""
        path = self.job(job_id).log
        return path.read_text(errors="replace") if path.exists() else ""

    def describe(self, job: Job, num_lines: int = 40) -> str:
        """State and end of the log of a job, for people."""
        names = ("JobState", "Reason", "Restarts", "ExitCode", "NodeList", "RunTime")
        lines = job.log.read_text(errors="replace").splitlines() if job.log.exists() else ["(no log)"]
        state = " ".join(f"{name}={job.fields.get(name)}" for name in names)
        return "\n".join([f"job {job.id}: {state}; the end of {job.log}:", *lines[-num_lines:]])

    def controller_log(self) -> str:
        """What slurmctld has logged since the cluster started."""
        return (self.folder / "log" / "slurmctld.log").read_text(errors="replace")

    def node_states(self) -> dict[str, str]:
        """The state of each node in SLURM's words: ``idle``, ``allocated``, ``down*`` (* is: silent), ..."""
        command = ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T"]
        return dict(line.split() for line in self.ask(command).splitlines())

    def heal(self, timeout_s: float = 90) -> None:
        """Cancel all jobs and bring back every node; when it returns, all nodes are idle and nothing runs on them.

        Raises ClusterError after ``timeout_s``.
        """
        for user in ("root", USER):
            self.ask(["scancel", f"--user={user}"])
        for node in self.nodes:
            if self.has_slurmd(node):
                self.reconnect(node)
            else:
                self._power_cycle(node)
        started = time.monotonic()
        while not self._is_well():
            if (waited_s := time.monotonic() - started) > timeout_s:
                processes = {node: self.processes(node) for node in self.nodes}
                raise ClusterError(f"not well after {timeout_s} s: {self.node_states()} with {processes}")
            for node, state in self.node_states().items():
                if state.startswith(("drain", "down")) and not state.endswith("*"):
                    self.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=False)
                elif waited_s > 20 and self.processes(node):
                    self._power_cycle(node)  # it runs what SLURM has lost sight of
            time.sleep(0.1)

    def _is_well(self) -> bool:
        idle = all(state == "idle" for state in self.node_states().values())
        queue = self.ask(["squeue", "--noheader"]).strip()
        return idle and not queue and not any(self.processes(node) for node in self.nodes)

    def _power_cycle(self, node: str) -> None:
        with suppress(ClusterError):  # it had no power
            self.power_cut(node)
        self.power_on(node)
