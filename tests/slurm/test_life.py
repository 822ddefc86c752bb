"""The ordinary life of a job: unprivileged users, arrays, chains, stopping, ends that stay ends."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.slurm.cluster import USER, Cluster
from tests.slurm.submitted import SubmittedRun
from unipool_dist.run.heartbeat import read_heartbeat

pytestmark = pytest.mark.timeout(420)

ONE_NODE = ("--nodes", "1", "--tasks-per-node", "1", "--time", "10")
SHORT = ("train.steps=6",)


def status(cluster: Cluster, run_dir: Path, user: str = "root") -> list[dict]:
    done = cluster.run(["python", "-m", "unipool_dist", "status", str(run_dir), "--json"], user=user)
    found: list[dict] = json.loads(done.stdout)
    return found


def test_an_ordinary_user_submits_without_an_environment_and_a_requeue_finds_the_run_finished(
    cluster: Cluster, corpus: Path, shared: Path
) -> None:
    run = SubmittedRun(cluster, shared / "run", user=USER)
    said = run.submit(
        corpus, "--nodes", "2", "--tasks-per-node", "1", "--time", "10", "--doctor",
        overrides=(*SHORT, "parallel.pp=2"), profile="sbatch: [--export=NONE]",
    )  # fmt: skip
    assert f"tail -F {run.run_dir}/logs/{run.job_id}.log" in said
    run.wait_for_end()
    assert run.run_dir.stat().st_uid != 0, "made by the user"
    (state,) = status(cluster, run.run_dir, USER)
    assert (state["job_state"], state["step"], state["last_checkpoint"], state["starts"]) == ("finished", 6, 6, 1)
    assert "doctor" in run.log()
    cluster.ask(["scontrol", "requeue", str(run.job_id)])
    cluster.release(run.job_id)
    run.wait_for_end(num_restarts=1, timeout_s=60)
    assert "the run is finished (step 6 of 6): nothing to do" in run.log()
    assert len(run.attempts()) == 1, "no task was started"


def test_a_run_that_fails_twice_at_the_same_step_stays_down(cluster: Cluster, corpus: Path, shared: Path) -> None:
    run = SubmittedRun(cluster, shared / "run")
    # Weights beyond what fp32 can multiply: the loss is no number soon after the first update.
    run.submit(corpus, *ONE_NODE, overrides=("optimizer.lr=1e30", "optimizer.warmup_steps=1", "optimizer.clip_grad=0"))
    cluster.wait(run.job_id, "PENDING", timeout_s=90, num_restarts=1)
    cluster.release(run.job_id)
    run.wait_for_end("FAILED", num_restarts=1)
    first, second = run.attempts()
    assert first.step == second.step
    assert "has failed twice after step" in run.log() and "submit --resume" in run.log()
    (state,) = status(cluster, run.run_dir)
    assert state["job_state"] == "failed" and state["restarts"] == 1


def test_a_run_is_stopped_and_resumed_by_hand(cluster: Cluster, corpus: Path, shared: Path) -> None:
    run = SubmittedRun(cluster, shared / "run")
    run.submit(corpus, *ONE_NODE, overrides=("train.steps=400",))
    run.wait_for_step(20)
    (state,) = status(cluster, run.run_dir)
    assert state["job_state"] == "RUNNING" and state["loss"] > 0 and state["time_left_s"] > 0
    assert state["limit_left_s"] == pytest.approx(600, abs=120)
    cluster.run(["scancel", "--signal=INT", str(run.job_id)])
    run.wait_for_end("FAILED")  # with status 75; a SLURM job has no better word for it
    assert cluster.job(run.job_id).num_restarts == 0
    (state,) = status(cluster, run.run_dir)
    assert state["job_state"] == "stopped" and state["last_checkpoint"] == state["step"] >= 20
    run.submit_again("--time", "5")
    run.wait_for_step(state["step"] + 1)
    beat = run.beat()
    assert beat is not None and beat.resumed_from == state["step"]


def test_a_sweep_is_an_array_of_four(cluster: Cluster, corpus: Path, shared: Path) -> None:
    run = SubmittedRun(cluster, shared / "all")
    run.submit(corpus, *ONE_NODE, "--sweep", "train.seed=1,2,3,4", overrides=SHORT)
    for task in range(4):
        cluster.wait(run.job_id + task, "COMPLETED", timeout_s=180)
    states = status(cluster, run.run_dir)
    assert [item["step"] for item in states] == [6] * 4
    assert len({item["loss"] for item in states}) == 4, "each has a seed of its own"


def test_of_a_sweep_the_task_that_stops_is_requeued_alone(cluster: Cluster, corpus: Path, shared: Path) -> None:
    run = SubmittedRun(cluster, shared / "all")
    run.submit(corpus, *ONE_NODE, "--sweep", "train.seed=1,2", overrides=("train.steps=100000",))
    array = run.job_id
    folders = sorted(path for path in run.run_dir.iterdir() if path.name[0].isdigit())
    until = time.monotonic() + 90
    while not all((beat := read_heartbeat(folder)) and beat.step > 0 for folder in folders):
        assert time.monotonic() < until, [read_heartbeat(folder) for folder in folders]
        time.sleep(0.2)
    # The last one, whose number is that of the array. The batch script is not signalled, so that it decides.
    cluster.run(["scancel", "--signal=TERM", f"{array}_1"])
    cluster.wait(array, "PENDING", "RUNNING", timeout_s=60, num_restarts=1)
    states = {item["run"]: item for item in status(cluster, run.run_dir)}
    restarts = {Path(name).name: (item["job_state"], item["restarts"]) for name, item in states.items()}
    assert restarts[folders[0].name] == ("RUNNING", 0) and restarts[folders[1].name][1] == 1


def test_a_chain_starts_when_the_first_has_ended(cluster: Cluster, corpus: Path, shared: Path) -> None:
    first, second = SubmittedRun(cluster, shared / "first"), SubmittedRun(cluster, shared / "second")
    first.submit(corpus, *ONE_NODE, overrides=SHORT)
    second.submit(corpus, *ONE_NODE, "--after", str(first.job_id), overrides=SHORT)
    assert cluster.job(second.job_id).reason == "Dependency"
    second.wait_for_end()
    assert first.attempts()[0].ended is not None
    assert second.attempts()[0].started >= first.attempts()[0].ended  # type: ignore[operator]
