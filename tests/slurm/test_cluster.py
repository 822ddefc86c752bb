"""The cluster does what tests of faults rely on: it runs jobs, and what befalls its nodes is like the real thing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.slurm.cluster import USER, Cluster
from tests.slurm.machines import ClusterError

ROOT = Path(__file__).parents[2]
IGNORES_TERM = "srun sh -c 'trap : TERM; while true; do sleep 0.2; done'"


def eventually(condition: Callable[[], bool], timeout_s: float) -> None:
    """Return when ``condition`` holds."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"not within {timeout_s} s"
        time.sleep(0.1)


def started(cluster: Cluster, script: str, *options: str) -> int:
    """A job that has processes on each of its nodes."""
    job_id = cluster.submit(script, *options)
    job = cluster.wait(job_id, "RUNNING", timeout_s=30)
    eventually(lambda: all(cluster.processes(node) for node in job.nodes), 30)
    return job_id


@pytest.mark.parametrize("num_nodes", [2, 4])
def test_a_step_runs_on_every_node(cluster: Cluster, num_nodes: int) -> None:
    job_id = cluster.submit("srun --label hostname", f"--nodes={num_nodes}")
    job = cluster.wait(job_id, "COMPLETED", timeout_s=30)
    assert len(job.nodes) == num_nodes
    assert sorted(cluster.log(job_id).split("\n")[:-1]) == [f"{i}: {node}" for i, node in enumerate(job.nodes)]


def test_each_node_is_a_machine_of_its_own(cluster: Cluster) -> None:
    for folder in ("/tmp", "/dev/shm"):
        cluster.run_on("n1", ["touch", f"{folder}/mine"])
        assert "mine" not in cluster.run_on("n2", ["ls", folder])
    assert cluster.run_on("n1", ["hostname", "--ip-address"]) != cluster.run_on("n2", ["hostname", "--ip-address"])
    assert not any(cluster.processes(node) for node in cluster.nodes)


def test_power_cut_requeues_the_job_on_the_survivors(cluster: Cluster) -> None:
    job_id = started(cluster, "srun sleep 300", "--nodes=2")
    lost = cluster.job(job_id).nodes[1]
    cluster.power_cut(lost)
    assert not cluster.processes(lost)
    cluster.wait(job_id, "PENDING", timeout_s=60, num_restarts=1)
    assert cluster.node_states()[lost] == "down*"
    cluster.release(job_id)
    again = cluster.wait(job_id, "RUNNING", timeout_s=30, num_restarts=1)
    assert len(again.nodes) == 2 and lost not in again.nodes


def test_processes_of_a_node_that_is_cut_off_run_on_until_it_is_back(cluster: Cluster) -> None:
    job_id = started(cluster, "srun sleep 300", "--nodes=2")
    node = cluster.job(job_id).nodes[1]
    cluster.cut_off(node)
    cluster.wait(job_id, "PENDING", timeout_s=60, num_restarts=1)
    assert "sleep" in [process.name() for process in cluster.processes(node)]
    cluster.cancel(job_id)
    cluster.reconnect(node)
    eventually(lambda: cluster.node_states()[node] == "idle" and not cluster.processes(node), 30)


def test_processes_outlive_the_slurmd_of_their_node(cluster: Cluster) -> None:
    job_id = started(cluster, "srun sleep 300", "--nodes=2")
    node = cluster.job(job_id).nodes[1]
    cluster.kill_slurmd(node)
    eventually(lambda: not cluster.has_slurmd(node), 10)
    assert "sleep" in [process.name() for process in cluster.processes(node)]
    cluster.heal()
    assert cluster.has_slurmd(node) and not cluster.processes(node)


def test_an_urgent_job_preempts_by_a_requeue_after_a_grace_period(cluster: Cluster) -> None:
    def set_grace(grace_s: int) -> None:
        cluster.run(["scontrol", "update", "partitionname=main", f"gracetime={grace_s}"])

    set_grace(3)
    try:
        # Had its tasks ended when they were told to, the job would have failed, and nobody would have requeued it.
        job_id = started(cluster, IGNORES_TERM, "--nodes=4")
        urgent = cluster.submit("true", "--nodes=4", "--partition=urgent")
        cluster.wait(job_id, "PENDING", timeout_s=60, num_restarts=1)
        cluster.wait(urgent, "COMPLETED", timeout_s=30)
        cluster.release(job_id)
        cluster.wait(job_id, "RUNNING", timeout_s=30, num_restarts=1)
    finally:
        set_grace(20)


def test_a_cancelled_job_leaves_no_process(cluster: Cluster) -> None:
    job_id = started(cluster, "srun sleep 300", "--nodes=2")
    nodes = cluster.job(job_id).nodes
    cluster.cancel(job_id)
    cluster.wait(job_id, "CANCELLED", timeout_s=30)
    eventually(lambda: not any(cluster.processes(node) for node in nodes), 30)


def test_a_job_of_an_ordinary_user_runs_as_that_user_and_finds_the_project(cluster: Cluster, shared: Path) -> None:
    code = "import getpass, unipool_dist; print(getpass.getuser(), unipool_dist.__file__)"
    job_id = cluster.submit(["srun", sys.executable, "-c", code], "--nodes=2", user=USER, cwd=shared)
    assert cluster.wait(job_id, "COMPLETED", timeout_s=30).fields["UserId"].startswith(f"{USER}(")
    expected = f"{USER} {ROOT / 'unipool_dist' / '__init__.py'}"
    assert cluster.log(job_id).splitlines() == [expected] * 2


def test_a_job_without_our_environment_has_the_user_s_own(cluster: Cluster) -> None:
    job_id = cluster.submit('echo "$HOME ${MINE:-none}"', "--export=NONE", user=USER, env={"MINE": "seen"})
    cluster.wait(job_id, "COMPLETED", timeout_s=60)
    assert cluster.log(job_id).split() == [str(cluster.folder / "home" / USER), "none"]


@pytest.fixture
def other() -> Iterator[Cluster]:
    """A second cluster, which is not up."""
    cluster = Cluster(Path(tempfile.gettempdir()) / f"unipool-slurm-other-{os.getpid()}")
    yield cluster
    cluster.stop()


def processes_of(cluster: Cluster) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # of a process that is gone
            if f"={cluster.folder}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def traces(cluster: Cluster) -> list[str]:
    """What the cluster has added to this machine's file systems, mounts and network."""
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(cluster.folder) in line]
    interfaces = [name for name in os.listdir("/sys/class/net") if name in ("lan", *cluster.nodes)]
    return [*mounts, *interfaces, *map(str, cluster.folder.parent.glob(f"{cluster.folder.name}*"))]


def test_stop_leaves_nothing_behind(other: Cluster) -> None:
    other.start(1)
    with pytest.raises(ClusterError, match="a cluster is up in"):
        other.start(1)
    job_id = started(other, "setsid sleep 300 & srun sleep 300")
    assert len(processes_of(other)) > 5
    other.wait(job_id, "RUNNING", timeout_s=5)
    assert traces(other) == [str(other.folder)]
    other.stop()
    assert not processes_of(other) and not traces(other)


def test_a_cluster_ends_with_the_process_that_started_it(other: Cluster) -> None:
    code = (
        "import os, signal; from pathlib import Path; from tests.slurm.cluster import Cluster\n"
        f"Cluster(Path({str(other.folder)!r})).start(1); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    eventually(lambda: not processes_of(other) and not traces(other), 20)
