"""Status from a run's files alone, and with what SLURM says."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.jobs.test_tasks import folder_with
from unipool_dist.base.stopping import Stop, StopReason
from unipool_dist.cli.status import status as status_command
from unipool_dist.errors import UnipoolError
from unipool_dist.jobs import status as status_module
from unipool_dist.jobs.slurm import parse_fields
from unipool_dist.jobs.status import status_of
from unipool_dist.run import condition
from unipool_dist.run.attempts import LOCAL, Attempt, AttemptLog
from unipool_dist.run.heartbeat import HeartbeatWriter
from unipool_dist.run.state import RunState

TERMINATED = Stop(StopReason.TERMINATED, "SIGTERM on a rank")


def record(run_dir: Path, step: int) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "loss": 3.5, "tokens_per_s": 1000.0, "step_time_s": 2.0}) + "\n")
        file.write(json.dumps({"step": step, "validation": {"a": 1.0}}) + "\n")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run without SLURM that has come to step 30 of 100."""
    (tmp_path / "config.yaml").write_text("{}\n")
    HeartbeatWriter(tmp_path, steps=100, resumed_from=20).write(30)
    record(tmp_path, 30)
    (tmp_path / "checkpoints" / "step-00000020").mkdir(parents=True)
    return tmp_path


def test_a_run_that_trains(run_dir: Path) -> None:
    (state,) = status_of(run_dir)
    assert (state.job_state, state.step, state.steps, state.loss, state.last_checkpoint) == (
        "training",
        30,
        100,
        3.5,
        20,
    )
    assert state.time_left_s == 140.0 and state.updated_s_ago is not None and state.updated_s_ago < 60


def test_a_run_that_has_been_silent_for_long(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condition, "SILENT_S", -1.0)
    (state,) = status_of(run_dir)
    assert state.job_state == "silent" and "no step for" in (state.reason or "") and state.time_left_s is None


@pytest.mark.parametrize(("state", "reason"), [("finished", None), ("stopped", "SIGTERM on a rank")])
def test_a_run_that_ended(run_dir: Path, state: str, reason: str | None) -> None:
    HeartbeatWriter(run_dir, steps=100, resumed_from=20).write(31, RunState(state), TERMINATED if reason else None)
    (found,) = status_of(run_dir)
    assert (found.job_state, found.reason, found.step) == (state, reason, 31)


def started(run_dir: Path, at: float) -> AttemptLog:
    """The run as a job that was started once, at this time relative to now."""
    (run_dir / "job").mkdir(exist_ok=True)
    log = AttemptLog(run_dir / "job")
    log.start(Attempt("50", 0, ["n1"], 1, 30, time.time() + at))
    return log


OUTCOMES = [
    ("failed", "an error", "failed", "an error"),
    ("interrupted", "killed", "interrupted", "SLURM has ended the job; submit --resume continues"),
    ("stopped", "SIGUSR1 on a rank", "stopped", "SIGUSR1 on a rank"),
    ("finished", None, "finished", None),  # as one that was finished already: it wrote no heartbeat
]


@pytest.mark.parametrize(("outcome", "detail", "state", "reason"), OUTCOMES)
@pytest.mark.parametrize("beat", ["stopped", "training"])
def test_the_last_start_that_ended_is_newer_than_an_old_heartbeat(
    run_dir: Path, beat: str, outcome: str, detail: str | None, state: str, reason: str | None
) -> None:
    HeartbeatWriter(run_dir, steps=100, resumed_from=20).write(30, RunState(beat), TERMINATED)
    started(run_dir, 10).end(ended=time.time() + 20, outcome=outcome, status=1, step=None, detail=detail)
    (found,) = status_of(run_dir)
    assert (found.job_state, found.reason) == (state, reason)


def test_a_start_that_slurm_ended_is_not_said_to_train(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own heartbeat is from just before."""
    log = started(run_dir, -10)
    HeartbeatWriter(run_dir, steps=100, resumed_from=20).write(31)
    log.end(ended=time.time() + 1, outcome="interrupted", status=143, step=31, detail="killed")
    (found,) = status_of(run_dir)
    assert (found.job_state, found.step) == ("interrupted", 31)


def test_a_start_of_an_experiment_on_this_machine_is_not_said_to_be_slurm_s(run_dir: Path) -> None:
    (run_dir / "job").mkdir()
    log = AttemptLog(run_dir / "job")
    log.start(Attempt(LOCAL, 0, ["here"], 1, 0, time.time() - 9))
    log.end(ended=time.time() + 1, outcome="interrupted", status=130, step=31, detail=None)
    (found,) = status_of(run_dir)
    assert (found.job_state, found.reason) == (
        "interrupted",
        "a signal has ended it; the same `unipool-dist experiment` continues",
    )


def test_a_start_after_a_stop_trains_until_it_has_been_silent_for_long(run_dir: Path) -> None:
    HeartbeatWriter(run_dir, steps=100, resumed_from=20).write(30, RunState.STOPPED, TERMINATED)
    log = started(run_dir, 0.01)
    assert status_of(run_dir)[0].job_state == "training"
    log.end(ended=time.time() - 0.5, outcome="failed", status=1, step=None, detail="an error")
    HeartbeatWriter(run_dir, steps=100, resumed_from=20)  # somebody has started it with a launcher
    assert status_of(run_dir)[0].job_state == "training"


def test_slurm_is_asked_for_the_tasks_of_an_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_with(tmp_path)
    job = json.loads((folder.path / "job.json").read_text())
    (folder.path / "job.json").write_text(json.dumps({**job, "runs": ["0-a", "1-b", "2-c"]}))
    folder.add_submission("50")
    for name in ("0-a", "1-b", "2-c"):
        (folder.run_dir / name / "job").mkdir(parents=True)
    log = AttemptLog(folder.run_dir / "0-a" / "job")
    log.start(Attempt("51", 0, ["n1"], 1, 0, 1.0))
    log.end(ended=2.0, outcome="failed", status=1, step=None, detail="an error")
    lines = [
        "JobId=52 ArrayJobId=50 ArrayTaskId=1 JobName=x y JobState=RUNNING Reason=None Restarts=3 NodeList=n2",
        "JobId=50 ArrayJobId=50 ArrayTaskId=2-3%1 JobState=PENDING Reason=JobArrayTaskLimit Restarts=0 NodeList=(null)",
    ]
    monkeypatch.setattr(status_module, "show_array", lambda job_id: [parse_fields(line) for line in lines])
    states = {Path(item.run).name: item for item in status_of(folder.run_dir)}
    assert (states["0-a"].job_state, states["0-a"].reason) == ("failed", "an error")
    assert (states["1-b"].job_state, states["1-b"].restarts, states["1-b"].nodes) == ("RUNNING", 3, "n2")
    assert (states["2-c"].job_state, states["2-c"].reason) == ("PENDING", "JobArrayTaskLimit")


def test_the_table_and_its_json(run_dir: Path) -> None:
    table = CliRunner().invoke(status_command, [str(run_dir)]).output.splitlines()
    assert table[0].split()[:4] == ["run", "job", "state", "step"] and "30/100" in table[1] and "0:02:20" in table[1]
    assert json.loads(CliRunner().invoke(status_command, [str(run_dir), "--json"]).output)[0]["step"] == 30


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnipoolError, match="holds no run"):
        status_of(tmp_path)


def test_without_a_run_it_finds_those_of_experiments_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(status_command).exit_code == 1, "there is no run"
    for name in ("alone", "softmax/vanilla/seed-1", "paper/182m", "a/b/c/too-deep", "alone/checkpoints"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").write_text("{}\n")
    found = json.loads(CliRunner().invoke(status_command, ["--json"]).output)
    folder = tmp_path / "runs"
    names = [str(Path(item["run"]).relative_to(folder)) for item in found]
    assert names == ["alone", "paper/182m", "softmax/vanilla/seed-1"]


def test_runs_of_an_experiment_that_its_last_array_leaves_out_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The array has what was not done; and the folder of a job, which has a configuration, is not a run."""
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "runs" / "softmax"
    for name in ("vanilla/seed-1", "vanilla/seed-2"):
        (output / name).mkdir(parents=True)
        (output / name / "config.yaml").write_text("{}\n")
    folder = folder_with(output.parent)
    folder.run_dir.rename(output / "moved")
    (output / "moved" / "job").rename(output / "job")
    job = json.loads((output / "job" / "job.json").read_text())
    (output / "job" / "job.json").write_text(json.dumps({**job, "runs": ["vanilla/seed-2"]}))
    (output / "job" / "config.yaml").write_text("{}\n")
    monkeypatch.setattr(status_module, "show_array", lambda job_id: [])
    found = json.loads(CliRunner().invoke(status_command, ["--json"]).output)
    assert [str(Path(item["run"]).relative_to(output)) for item in found] == ["vanilla/seed-2", "vanilla/seed-1"]
