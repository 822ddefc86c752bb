"""Whatever happens to a job, the run comes back and ends with the losses of one that nothing happened to."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.submitted import SETTINGS, SubmittedRun, columns, trainers
from tests.support.running import one_thread, train_records
from tests.support.runs import train_command

pytestmark = pytest.mark.timeout(420)

TWO_NODES = ("--nodes", "2", "--tasks-per-node", "1", "--time", "10")
LAYOUT = ("parallel.pp=2",)  # across the nodes, one pool over both
MIDDLE = 22
SLOW = "train.global_batch_size=48"  # for what takes SLURM half a minute to see, while the run continues


class OneProcess:
    """A run of one process, without SLURM and without interruption, that goes on beside the tests."""

    def __init__(self, corpus: Path, run_dir: Path, *overrides: str) -> None:
        self._run_dir = run_dir
        command = train_command(corpus, run_dir, 1, *SETTINGS, *overrides)
        self.process = subprocess.Popen(command, env=one_thread(), stdout=subprocess.DEVNULL)

    def columns(self) -> dict[str, list[float]]:
        """Its metrics, once it has ended."""
        assert self.process.wait(300) == 0
        return columns(self._run_dir)


@pytest.fixture(scope="module")
def references(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OneProcess, OneProcess]]:
    """With the usual steps, and with SLOW ones."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    runs = OneProcess(tiny_corpus, folder / "run"), OneProcess(tiny_corpus, folder / "slow", SLOW)
    yield runs
    for run in runs:
        run.process.kill()
        run.process.wait()


@pytest.fixture(scope="module")
def uninterrupted(references: tuple[OneProcess, OneProcess]) -> dict[str, list[float]]:
    """What the runs of the other tests are compared with."""
    return references[0].columns()


@pytest.fixture(scope="module")
def uninterrupted_slow(references: tuple[OneProcess, OneProcess]) -> dict[str, list[float]]:
    """The same of runs with SLOW."""
    return references[1].columns()


@pytest.fixture
def run(cluster: Cluster, shared: Path) -> SubmittedRun:
    return SubmittedRun(cluster, shared / "run")


def test_scontrol_requeue(run: SubmittedRun, corpus: Path, uninterrupted: dict[str, list[float]]) -> None:
    run.submit(corpus, *TWO_NODES, overrides=LAYOUT)
    working_tree = run.run_dir.parent / "unipool_dist"  # of the directory in which the job was submitted and starts
    working_tree.mkdir()
    (working_tree / "__init__.py").write_text("raise SystemExit('this is not the frozen code')\n")
    run.wait_for_step(MIDDLE)
    run.recover("scontrol requeue", lambda: run.cluster.run(["scontrol", "requeue", str(run.job_id)]))
    run.wait_for_end()
    run.check_losses(uninterrupted)
    run.check_nothing_runs()
    assert "restart 1" in run.log()


def test_the_warning_before_the_time_limit(
    run: SubmittedRun, corpus: Path, uninterrupted_slow: dict[str, list[float]]
) -> None:
    run.submit(corpus, *TWO_NODES, overrides=(*LAYOUT, SLOW), profile="warning_s: 30")
    run.wait_for_step(8)

    def set_limit(minutes: int) -> None:
        run.cluster.ask(["scontrol", "update", f"jobid={run.job_id}", f"TimeLimit={minutes}"])

    def lengthen() -> None:  # as long as it waits, or the second start would be warned before it trains
        run.cluster.wait(run.job_id, "PENDING", "RUNNING", timeout_s=30)
        set_limit(10)

    recovery = run.recover("time limit: warning signal", lambda: set_limit(1), before_restart=lengthen)
    assert recovery.lost_steps == 0, "it had time to save"
    run.wait_for_end()
    run.check_losses(uninterrupted_slow)
    run.check_nothing_runs()
    assert "SIGUSR1" in run.log() and "goes back into the queue" in run.log()


@pytest.mark.parametrize("victim", [0, 1], ids=["first node", "other node"])
def test_a_node_loses_its_power(
    run: SubmittedRun, corpus: Path, uninterrupted: dict[str, list[float]], victim: int
) -> None:
    run.submit(corpus, *TWO_NODES, overrides=LAYOUT)
    run.wait_for_step(MIDDLE)
    node = run.cluster.job(run.job_id).nodes[victim]
    run.recover(f"power cut, {'first' if victim == 0 else 'other'} node", lambda: run.cluster.power_cut(node))
    job = run.wait_for_end()
    assert node not in job.nodes, "it stays dead"
    run.check_losses(uninterrupted)
    run.check_nothing_runs()


@pytest.mark.parametrize("victim", [0, 1], ids=["first node", "other node"])
def test_a_node_is_cut_off_the_network(
    run: SubmittedRun, corpus: Path, uninterrupted: dict[str, list[float]], victim: int
) -> None:
    # What is cut off runs on until the watchdog ends it, and holds the run's lock until then.
    run.submit(corpus, *TWO_NODES, overrides=(*LAYOUT, "run.watchdog_s=15"))
    run.wait_for_step(MIDDLE)
    node = run.cluster.job(run.job_id).nodes[victim]
    run.recover(f"network cut, {'first' if victim == 0 else 'other'} node", lambda: run.cluster.cut_off(node))
    job = run.wait_for_end()
    assert node not in job.nodes
    run.check_losses(uninterrupted)
    run.check_nothing_runs()


def test_a_task_is_killed(run: SubmittedRun, corpus: Path, uninterrupted: dict[str, list[float]]) -> None:
    run.submit(corpus, *TWO_NODES, overrides=LAYOUT)
    run.wait_for_step(MIDDLE)
    node = run.cluster.job(run.job_id).nodes[1]
    run.recover("one task killed", lambda: trainers(run.cluster, node)[0].kill())
    run.wait_for_end()
    run.check_losses(uninterrupted)
    run.check_nothing_runs()


def test_a_task_hangs(run: SubmittedRun, corpus: Path, uninterrupted: dict[str, list[float]]) -> None:
    run.submit(corpus, *TWO_NODES, overrides=(*LAYOUT, "run.watchdog_s=8"))
    run.wait_for_step(MIDDLE)
    node = run.cluster.job(run.job_id).nodes[1]
    run.recover(
        "one task hangs, watchdog after 8 s", lambda: trainers(run.cluster, node)[0].send_signal(signal.SIGSTOP)
    )
    run.wait_for_end()
    run.check_losses(uninterrupted)
    run.check_nothing_runs()


def test_slurmd_is_killed(run: SubmittedRun, corpus: Path, uninterrupted_slow: dict[str, list[float]]) -> None:
    run.submit(corpus, *TWO_NODES, overrides=(*LAYOUT, SLOW, "run.watchdog_s=15"))
    run.wait_for_step(8)
    node = run.cluster.job(run.job_id).nodes[1]
    run.recover("slurmd killed", lambda: run.cluster.kill_slurmd(node))
    run.wait_for_end()
    run.check_losses(uninterrupted_slow)
    run.check_nothing_runs()


def test_slurmd_of_the_only_node_is_killed(run: SubmittedRun, corpus: Path) -> None:
    """Nobody ends what trains there, and holds the run: the job's new start elsewhere asks it to save and end."""
    run.submit(corpus, "--nodes", "1", "--tasks-per-node", "1", "--time", "10", overrides=("train.steps=100000",))
    run.wait_for_step(8)
    (node,) = run.cluster.job(run.job_id).nodes
    run.recover("slurmd of the only node killed", lambda: run.cluster.kill_slurmd(node), handed_over=True)
    assert "are lost" not in run.log()
    until = time.monotonic() + 20
    while trainers(run.cluster, node):
        assert time.monotonic() < until, f"left running on {node}:\n{run.log()}"
        time.sleep(0.5)
    first, second = run.attempts()
    assert first.outcome == "interrupted" and first.nodes == [node] != second.nodes
    assert "the run is still held by" in run.log()
    assert "the run is finished" not in run.log(), "which srun says when it loses a node"
    steps = [record["step"] for record in train_records(run.run_dir)]
    assert steps == list(range(1, len(steps) + 1)), "each step once"


def test_preemption(run: SubmittedRun, corpus: Path, uninterrupted: dict[str, list[float]]) -> None:
    run.submit(corpus, *TWO_NODES, overrides=LAYOUT)
    run.wait_for_step(MIDDLE)

    def preempt() -> None:
        run.cluster.submit("sleep 2", "--partition=urgent", "--nodes=4", "--exclusive")

    run.recover("preempted", preempt)
    run.wait_for_end()
    run.check_losses(uninterrupted)
    run.check_nothing_runs()


def test_two_nodes_become_four(run: SubmittedRun, corpus: Path, uninterrupted: dict[str, list[float]]) -> None:
    others = run.cluster.submit("sleep 300", "--nodes=2", "--exclusive")
    run.cluster.wait(others, "RUNNING", timeout_s=30)
    run.submit(corpus, "--nodes", "2-4", "--tasks-per-node", "1", "--time", "10")
    run.wait_for_step(MIDDLE)
    run.cluster.run(["scancel", str(others)])
    run.recover("scontrol requeue, 2 more nodes", lambda: run.cluster.run(["scontrol", "requeue", str(run.job_id)]))
    run.wait_for_end()
    assert [len(attempt.nodes) for attempt in run.attempts()] == [2, 4]
    run.check_losses(uninterrupted)
    run.check_nothing_runs()


def test_four_nodes_become_three_and_two(
    run: SubmittedRun, corpus: Path, uninterrupted: dict[str, list[float]]
) -> None:
    run.submit(corpus, "--nodes", "2-4", "--tasks-per-node", "1", "--time", "10")
    run.wait_for_step(12)
    for num_left in (3, 2):
        node = run.cluster.job(run.job_id).nodes[-1]
        run.recover(f"power cut, {num_left} nodes left", lambda node=node: run.cluster.power_cut(node))  # type: ignore[misc]
    run.wait_for_end()
    assert [len(attempt.nodes) for attempt in run.attempts()] == [4, 3, 2]
    assert [f"dp {n} x tp 1 = {n} processes on {n} nodes" in run.log() for n in (4, 3, 2)] == [True] * 3
    run.check_losses(uninterrupted)
    run.check_nothing_runs()
