"""What the batch script does, with srun and scontrol replaced by scripts; the real ones are in tests/slurm."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.jobs.test_tasks import folder_with
from unipool_dist.config import dump_config, load_config
from unipool_dist.jobs.folder import JobFolder
from unipool_dist.jobs.policy import MAX_CUT_OFF, MAX_FRUITLESS, MAX_STOPPED
from unipool_dist.resilience.handover import Handover
from unipool_dist.run.attempts import AttemptLog
from unipool_dist.run.lock import RunLock

HEARTBEAT = """python3 - "$@" <<'END'
import json, sys, time
print("tasks", *sys.argv[1:])
beat = dict(state={state!r}, step={step}, steps=100, resumed_from=0, reason={reason!r}, time=time.time())
open({run!r} + "/heartbeat.json", "w").write(json.dumps(beat))
END
exit {status}
"""


class Batch:
    """A batch script's surroundings: a submitted run on two nodes, and what SLURM's commands do."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder: JobFolder = folder_with(tmp_path)
        self.run_dir = self.folder.run_dir
        config = load_config(None, ("train.steps=100", "train.global_batch_size=12", "train.micro_batch_size=1"))
        dump_config(config, self.folder.path / "config.yaml")
        shutil.copytree(Path(__file__).parents[2] / "launchers", self.folder.files.launchers)
        self.bin = tmp_path / "bin"
        self.bin.mkdir()
        self.scontrol("JobState=RUNNING Restarts=0")

    def scontrol(self, fields: str, before: str = "") -> None:
        """What SLURM knows of the job; ``before`` is done first."""
        self._program(
            "scontrol",
            f"""{before}
            case $2 in
            hostnames) printf 'n1\\nn2\\n';;
            job) echo "JobId=17 JobName=tiny {fields} NodeList=n[1-2]";;
            esac
            [[ $1 != requeue ]] || {{ echo "$2" >>{self.bin}/requeued; kill -TERM $PPID; }}""",
        )

    def tasks(self, state: str, step: int, status: int, reason: str | None = None) -> None:
        """The tasks come to ``step`` and end."""
        self._program(
            "srun", HEARTBEAT.format(state=state, step=step, reason=reason, run=str(self.run_dir), status=status)
        )

    def srun(self, text: str) -> None:
        self._program("srun", text)

    def change_job(self, **fields: object) -> None:
        """As if it had been submitted so."""
        path = self.folder.path / "job.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    def _program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def start(self, restart: int = 0, job_id: int = 17, **array: str) -> subprocess.Popen[str]:
        variables = {"SLURM_JOB_ID": str(job_id), "SLURM_JOB_NODELIST": "n[1-2]", **array}
        if restart:
            variables["SLURM_RESTART_COUNT"] = str(restart)
        return subprocess.Popen(
            [sys.executable, "-m", "unipool_dist.jobs", str(self.run_dir)],
            env={**os.environ, **variables, "PATH": f"{self.bin}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, restart: int = 0, job_id: int = 17) -> tuple[int, str]:
        process = self.start(restart, job_id)
        output, _ = process.communicate(timeout=240)
        return process.returncode, output

    @property
    def requeued(self) -> list[str]:
        """The jobs, as SLURM was told."""
        path = self.bin / "requeued"
        return path.read_text().split() if path.exists() else []

    @property
    def num_requeued(self) -> int:
        return len(self.requeued)


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return Batch(tmp_path)


def test_a_finished_run_ends_with_success_now_and_whenever_it_is_started_again(batch: Batch) -> None:
    batch.tasks("finished", 100, 0)
    status, output = batch.run()
    assert status == 0 and "tasks --kill-on-bad-exit=1" in output and "the run is finished" in output
    status, output = batch.run(restart=1)
    assert status == 0 and "nothing to do" in output and "tasks" not in output
    assert batch.num_requeued == 0


def test_a_stopped_run_is_requeued(batch: Batch) -> None:
    batch.tasks("stopped", 40, 75, "SIGUSR1 on a rank")
    status, output = batch.run()
    assert status == 75 and batch.num_requeued == 1, output
    (attempt,) = AttemptLog.read(batch.folder.path).attempts
    assert (attempt.outcome, attempt.step, attempt.nodes) == ("stopped", 40, ["n1", "n2"])


def test_of_an_array_the_one_task_is_requeued(batch: Batch) -> None:
    """SLURM's number of the task that was started last is that of the array, whose requeue is one of all tasks."""
    batch.tasks("stopped", 40, 75, "SIGUSR1 on a rank")
    process = batch.start(SLURM_ARRAY_JOB_ID="17", SLURM_ARRAY_TASK_ID="0")
    process.communicate(timeout=240)
    assert process.returncode == 75 and batch.requeued == ["17_0"]


def test_a_former_start_that_still_trains_is_asked_for_the_run_before_the_tasks_start(batch: Batch) -> None:
    batch.tasks("finished", 100, 0)
    lock = RunLock(batch.run_dir)
    lock.acquire()
    process = batch.start(restart=2)
    former = Handover(batch.run_dir, "17", 1)
    until = time.monotonic() + 60
    while not former.is_asked():
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.1)
    assert not (batch.run_dir / "heartbeat.json").exists(), "the tasks wait"
    lock.release()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0 and "the run is still held by process" in output
    assert "the run is finished" in output


def test_the_end_of_a_former_start_is_not_that_of_the_one_that_waited_for_it(batch: Batch) -> None:
    batch.srun("exit 1")
    lock = RunLock(batch.run_dir)
    lock.acquire()
    process = batch.start(restart=1)
    until = time.monotonic() + 60
    while not (batch.run_dir / ".handover").exists() and time.monotonic() < until:
        time.sleep(0.05)
    beat = {
        "state": "stopped",
        "step": 9,
        "steps": 100,
        "resumed_from": 0,
        "reason": "handed over",
        "time": time.time(),
    }
    (batch.run_dir / "heartbeat.json").write_text(json.dumps(beat))
    lock.release()
    process.communicate(timeout=240)
    (attempt,) = AttemptLog.read(batch.folder.path).attempts
    assert (attempt.outcome, attempt.step) == ("failed", None)


def test_who_is_ended_while_it_waits_for_a_former_start_starts_nothing(batch: Batch) -> None:
    batch.tasks("finished", 100, 0)
    with RunLock(batch.run_dir):
        process = batch.start(restart=1)
        until = time.monotonic() + 60
        while not (batch.run_dir / ".handover").exists() and time.monotonic() < until:
            time.sleep(0.05)
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and "SLURM is ending the job" in output and "tasks" not in output


def test_without_requeue_the_job_ends_and_says_how_to_go_on(batch: Batch) -> None:
    batch.change_job(requeue=False)
    batch.tasks("stopped", 40, 75, "SIGUSR1 on a rank")
    status, output = batch.run()
    assert status == 75 and batch.num_requeued == 0
    assert "--no-requeue" in output and f"submit --resume {batch.run_dir}" in output


def test_sigint_means_stop_for_good(batch: Batch) -> None:
    batch.tasks("stopped", 40, 75, "SIGINT on a rank")
    status, output = batch.run()
    assert status == 75 and batch.num_requeued == 0 and "do not start again" in output


def test_the_second_failure_at_a_step_ends_the_job(batch: Batch) -> None:
    batch.tasks("training", 12, 1)
    assert batch.run()[0] == 75 and batch.num_requeued == 1
    batch.scontrol("JobState=RUNNING Restarts=1")
    status, output = batch.run(restart=1)
    assert status == 1 and batch.num_requeued == 1
    assert "has failed twice after step 12" in output and f"submit --resume {batch.run_dir}" in output


@pytest.mark.parametrize("fields", ["JobState=RUNNING Restarts=1", "JobState=COMPLETING Restarts=0"])
def test_a_job_that_slurm_has_taken_is_not_requeued_once_more(batch: Batch, fields: str) -> None:
    batch.tasks("training", 12, 1)
    batch.scontrol(fields)
    status, output = batch.run()
    assert status == 75 and batch.num_requeued == 0 and "SLURM has already taken this job" in output


TASKS_THAT_SLURM_ENDS = """touch {bin}/began; trap '' TERM
until [[ -e {bin}/end ]]; do sleep 0.05; done; exit 143"""


def end_by_slurm(batch: Batch) -> tuple[str, subprocess.Popen[str]]:
    """SLURM ends the job while its tasks run: first the batch script is told, then they end."""
    process = batch.start()
    lines = []
    assert process.stdout is not None
    until = time.monotonic() + 30
    while not (batch.bin / "began").exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.terminate()
    for line in process.stdout:
        lines.append(line)
        if "from SLURM: the job is being ended" in line:
            (batch.bin / "end").touch()
    process.wait(120)
    return "".join(lines), process


def test_while_slurm_ends_the_job_it_waits_for_the_tasks_and_starts_nothing(batch: Batch) -> None:
    batch.srun(TASKS_THAT_SLURM_ENDS.format(bin=batch.bin))
    output, process = end_by_slurm(batch)
    assert process.returncode == 143 and "the job is being ended" in output
    (attempt,) = AttemptLog.read(batch.folder.path).attempts
    assert attempt.outcome == "interrupted" and attempt.status == 143 and batch.num_requeued == 0


def test_a_run_that_is_cut_off_again_and_again_is_given_up(batch: Batch) -> None:
    batch.srun("kill -KILL $PPID")
    for restart in range(MAX_CUT_OFF):
        assert batch.run(restart)[0] == -signal.SIGKILL
    status, output = batch.run(MAX_CUT_OFF)
    assert status == 1 and "were cut off" in output and "submit --resume" in output
    batch.tasks("finished", 100, 0)
    assert batch.run(job_id=18)[0] == 0, "the job that was submitted as it said starts the run"


def test_a_run_that_is_stopped_before_a_step_again_and_again_is_given_up(batch: Batch) -> None:
    batch.tasks("stopped", 40, 75, "SIGUSR1 on a rank")
    assert batch.run()[0] == 75
    for restart in range(1, MAX_STOPPED):
        batch.scontrol(f"JobState=RUNNING Restarts={restart}")
        assert batch.run(restart)[0] == 75 and batch.num_requeued == restart + 1
    status, output = batch.run(MAX_STOPPED)
    assert status == 1 and batch.num_requeued == MAX_STOPPED, output
    assert "without a step or a checkpoint beyond step 40" in output and "--time" in output


UNREACHABLE = """if [[ $2 != hostnames ]] && (($(cat {count} 2>/dev/null || echo 0) < 2)); then
    echo $(($(cat {count} 2>/dev/null || echo 0) + 1)) >{count}
    echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2
    exit 1
fi"""


def test_a_controller_that_does_not_answer_is_asked_again(batch: Batch) -> None:
    batch.tasks("stopped", 40, 75, "SIGUSR1 on a rank")
    batch.scontrol("JobState=RUNNING Restarts=0", UNREACHABLE.format(count=batch.bin / "count"))
    status, output = batch.run()
    assert status == 75 and batch.num_requeued == 1, output
    assert output.count("trying again for 10 minutes") == 1 and "Unable to contact" in output


def test_a_job_that_was_requeued_though_the_answer_was_lost_is_left_alone(batch: Batch) -> None:
    batch.tasks("stopped", 40, 75, "SIGUSR1 on a rank")
    # From the second look on SLURM has started it anew.
    lost = f"[[ $1 != requeue ]] || {{ touch {batch.bin}/again; echo 'Socket timed out' >&2; exit 1; }}"
    again = f"[[ $2 != job || ! -e {batch.bin}/again ]] || {{ echo 'JobId=17 JobState=PENDING Restarts=1'; exit; }}"
    batch.scontrol("JobState=RUNNING Restarts=0", f"{lost}\n{again}")
    status, output = batch.run()
    assert status == 75 and batch.num_requeued == 0 and "SLURM has already taken this job" in output, output


def test_files_that_cannot_be_read_are_an_error_that_says_how_to_go_on(batch: Batch) -> None:
    (batch.folder.path / "attempts.jsonl").mkdir()  # a file without permission would be open to root
    status, output = batch.run()
    assert status == 1 and "Traceback" not in output
    assert "attempts.jsonl" in output and f"continue with: unipool-dist submit --resume {batch.run_dir}" in output


def test_the_end_of_a_node_that_was_cut_off_is_not_that_of_the_next_start(batch: Batch) -> None:
    """SLURM has restarted the job on other nodes meanwhile, and that start is in the files."""
    start = {"event": "start", "job_id": "17", "restart": 1, "nodes": ["n3"], "num_tasks": 2, "step_before": 3}
    later = json.dumps({**start, "started": time.time() + 1000})
    beat = HEARTBEAT.format(state="stopped", step=50, reason="SIGUSR1 on a rank", run=str(batch.run_dir), status=1)
    batch.srun(f"echo '{later}' >>{batch.folder.path}/attempts.jsonl\n{beat}")
    status, output = batch.run()
    assert status == 75 and batch.num_requeued == 0
    assert output.splitlines()[-1].endswith("SLURM has restarted job 17 elsewhere: its restart 0, this one, ends")
    old, new = AttemptLog.read(batch.folder.path).attempts
    assert (old.outcome, old.step, new.outcome, new.restart) == ("interrupted", None, None, 1)


def test_an_srun_that_succeeds_though_the_run_is_not_finished_tells_of_a_lost_node(batch: Batch) -> None:
    batch.tasks("training", 40, 0)
    status, output = batch.run()
    assert status == 75 and "SLURM is ending the job" in output and "finished" not in output
    (attempt,) = AttemptLog.read(batch.folder.path).attempts
    assert attempt.outcome == "interrupted"
    batch.srun(f"mkdir -p {batch.run_dir}/checkpoints/step-00000100")  # found finished, it writes no heartbeat
    status, output = batch.run(restart=1)
    assert status == 0 and "the run is finished" in output


def doctor(status: int, verdict: str = "") -> str:
    """An srun under which doctor ends so, and training succeeds."""
    found = f"""for word; do [[ $word != --status-file=* ]] || echo "{verdict}" >"${{word#*=}}"; done"""
    return f"""if [[ " $* " != *" doctor "* ]]; then
        for word; do [[ $word != */job/config.yaml ]] || mkdir -p "${{word%/job/*}}/checkpoints/step-00000100"; done
        exit 0
    fi
    {found if verdict else ""}
    exit {status}"""


@pytest.mark.parametrize(
    ("srun", "status", "num_requeued", "said"),
    [
        (doctor(0, "0"), 0, 0, "the run is finished"),
        (doctor(0, "1"), 1, 0, "doctor found faults (status 1, see above)"),
        (doctor(1), 1, 0, "doctor came to no verdict (status 1, see above)"),
        (doctor(1, "143"), 75, 1, "doctor was ended by SIGTERM, which is not a finding"),  # the same, under torchrun
        (doctor(143), 75, 1, "doctor was ended by SIGTERM, which is not a finding"),  # a preemption
        (doctor(138), 75, 1, "doctor was ended by SIGUSR1"),  # the time limit is near
        (doctor(137, "1"), 1, 0, "doctor found faults"),  # and a task that stood still was killed
        (doctor(130), 75, 0, "do not start again"),
    ],
)
def test_doctor_s_findings_end_the_job_and_signals_do_not(
    batch: Batch, srun: str, status: int, num_requeued: int, said: str
) -> None:
    batch.change_job(doctor=True)
    batch.srun(srun)
    found, output = batch.run()
    assert (found, batch.num_requeued) == (status, num_requeued) and said in output, output
    assert len(AttemptLog.read(batch.folder.path).attempts) == (found == 0), "the run itself was not started"


def test_a_doctor_that_never_comes_to_a_verdict_is_given_up(batch: Batch) -> None:
    batch.change_job(doctor=True)
    batch.srun("exit 137")
    status, output = batch.run(restart=MAX_FRUITLESS)
    assert status == 1 and f"{MAX_FRUITLESS} starts of this job have ended before doctor" in output
    assert batch.num_requeued == 0 and "doctor: looking at the nodes" not in output


def test_a_doctor_that_slurm_ends_has_found_nothing(batch: Batch) -> None:
    batch.change_job(doctor=True)
    batch.srun(TASKS_THAT_SLURM_ENDS.format(bin=batch.bin))
    output, process = end_by_slurm(batch)
    assert process.returncode == 75 and batch.num_requeued == 0
    assert "SLURM is ending the job" in output and "found faults" not in output


def test_what_the_watchdog_said_is_the_reason(batch: Batch) -> None:
    old, new = batch.run_dir / "watchdog/earlier", batch.run_dir / "watchdog/now"
    old.mkdir(parents=True)
    (old / "summary.txt").write_text("watchdog: of another start\n")
    os.utime(old / "summary.txt", (1, 1))
    said = "watchdog: the run makes no progress in step 36; rank 1 differs"
    batch.srun(f"mkdir -p {new}; echo '{said}' >{new}/summary.txt; exit 137")
    assert batch.run()[0] == 75 and batch.num_requeued == 1
    (attempt,) = AttemptLog.read(batch.folder.path).attempts
    assert (attempt.outcome, attempt.detail) == ("failed", said)


def test_what_is_no_submitted_run_is_told(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "unipool_dist.jobs", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1 and "was not submitted" in done.stderr
