"""``unipool-dist doctor`` on processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.doctor.examinations import COMMAND, Verdict, examine, examine_as_ranks
from tests.support.running import one_thread
from tests.support.runs import TINY_RUN
from unipool_dist.doctor.judgement import bus_factor

pytestmark = pytest.mark.timing

LOCAL = {
    "rendezvous",
    "versions",
    "devices",
    "cores",
    "memory",
    "master address",
    "network",
    "process groups",
    "clock skew",
    "run directory",
    "file locks",
    "free space",
    "write speed",
    "read speed",
    "compute",
    "links",
}


def consistent(verdict: Verdict, name: str, num_groups: int, size: int) -> None:
    """Figures of a collective are positive, and bandwidth is bytes by time."""
    check = verdict.check(name)
    groups: list[dict[str, Any]] = check["figures"]["groups"]
    assert len(groups) == num_groups and all(len(group["ranks"]) == size for group in groups)
    for group in groups:
        assert group["small_seconds"] > 0 and group["large_seconds"] > 0 and group["small_bytes"] < group["large_bytes"]
        factor = bus_factor(check["figures"]["kind"], size)
        expected = group["large_bytes"] / group["large_seconds"] * factor / 1e9
        assert group["bus_gb_per_s"] == pytest.approx(expected)
    assert check["value"] == pytest.approx(min(group["bus_gb_per_s"] for group in groups))


def test_one_process(tmp_path: Path) -> None:
    verdict = examine(cwd=tmp_path)
    assert verdict.statuses == [0] and verdict.document["ok"], verdict.document
    names = {check["name"] for check in verdict.document["checks"]}
    assert names == LOCAL | {"all-reduce, world", "all-to-all, world"}
    assert verdict.check("compute")["value"] > 0
    (node,) = verdict.document["nodes"]
    assert node["ranks"] == [0] and node["cores"] >= 1 and node["slow"] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real_programs
def test_four_processes_over_the_groups_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("run: {dir: runs/a}\n")
    layout = ["parallel.pp=2", "pool.parallel_size=2"]
    started = time.monotonic()
    verdict = examine("--nproc", "4", "run.yaml", *TINY_RUN, *layout, cwd=tmp_path)
    assert time.monotonic() - started < 40
    assert verdict.statuses == [0], verdict.document
    consistent(verdict, "all-reduce, world", 1, 4)
    consistent(verdict, "all-reduce, dp", 2, 2)
    consistent(verdict, "all-to-all, pool", 2, 2)
    consistent(verdict, "send/recv, pipeline", 2, 2)
    links = verdict.check("links")["figures"]["links"]
    assert sorted(sorted(link["ranks"]) for link in links) == [[0, 1], [0, 3], [1, 2], [2, 3]]
    for link in links:
        assert (
            link["gb_per_s"] == pytest.approx(link["large_bytes"] / link["large_seconds"] / 1e9)
            and link["gb_per_s"] > 0
        )
    space = verdict.check("free space")
    assert space["figures"]["checkpoint_bytes"] > 0 and space["expected"].endswith("vocabulary not counted")
    assert len(verdict.check("compute")["figures"]["product_seconds"]) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"], "the run directory was only tried"


def test_a_slow_rank_is_named(tmp_path: Path) -> None:
    """Rank 2 is held for three quarters of the time, from when the run directory is examined."""
    command = [*COMMAND, "--nproc", "4"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, env=one_thread(), text=True) as process:
        try:
            until = time.monotonic() + 40
            while not list(tmp_path.glob(".doctor-*")):
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.005)
            with held(rank_of(process.pid, 2)):
                output, _ = process.communicate(timeout=240)
        finally:
            process.kill()
    verdict = Verdict([process.returncode], json.loads(output), "")
    compute = verdict.check("compute")
    assert 2 in compute["slow_ranks"] and compute["status"] == "warn", compute
    assert "rank 2" in compute["advice"] and "waits for a core" in compute["advice"]
    assert verdict.statuses == [0], "a slow rank is a warning"


def rank_of(launcher: int, rank: int) -> int:
    for child in psutil.Process(launcher).children():
        with suppress(psutil.Error):
            if child.environ().get("RANK") == str(rank):
                return int(child.pid)
    raise AssertionError(f"no rank {rank}")


@contextmanager
def held(pid: int) -> Iterator[None]:
    """The process gets on only in a quarter of the time."""
    ended = threading.Event()

    def pulse() -> None:
        with suppress(ProcessLookupError):
            while not ended.is_set():
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.06)
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.02)

    thread = threading.Thread(target=pulse)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


TWO_NODES = """
import os, socket, time
rank = int(os.environ["RANK"])
socket.gethostname = lambda: "node-a" if rank < 2 else "node-b"
if rank >= 2:
    from unipool_dist.doctor import facts
    os.chdir("elsewhere")
    true_time, true_versions = time.time, facts.current_versions
    time.time = lambda: true_time() + 100
    facts.current_versions = lambda: true_versions() | {"deepspeed": "0.0.1"}
if rank == 3:
    from unipool_dist.doctor.compute import Compute
    def no_unit(self, brief):
        raise ZeroDivisionError("no unit to compute with")
    Compute.measure = no_unit
"""


def test_two_nodes_that_differ_in_everything(tmp_path: Path) -> None:
    """What fails on a node is named with it; what does not depend on that is measured."""
    (tmp_path / "elsewhere").mkdir()
    verdict = examine_as_ranks(TWO_NODES, [0, 1, 2, 3], 4, cwd=tmp_path)
    assert verdict.statuses == [1, 1, 1, 1] and not verdict.document["ok"], verdict.stderr
    versions = verdict.check("versions")
    assert versions["status"] == "fail" and "0.0.1 on node-b (ranks 2-3)" in versions["measured"]
    clock = verdict.check("clock skew")
    assert clock["status"] == "warn" and clock["value"] == pytest.approx(100, abs=1) and "node-b" in clock["advice"]
    assert 0 < clock["figures"]["uncertainty_s"]["node-b"] < 1
    directory = verdict.check("run directory")
    assert directory["status"] == "fail" and "node-b (ranks 2-3) did not see" in directory["advice"]
    compute = verdict.check("compute")
    assert (
        compute["status"] == "fail"
        and compute["measured"] == "rank 3 (node-b): ZeroDivisionError: no unit to compute with"
    )
    assert verdict.status("write speed") == "warn" and "must be dealt with" in verdict.check("write speed")["advice"]
    assert verdict.check("links")["figures"]["links"][0]["nodes"] == ["node-a", "node-b"]
    consistent(verdict, "all-reduce, world", 1, 4)
    consistent(verdict, "all-to-all, world", 1, 4)
    assert [(node["name"], node["ranks"]) for node in verdict.document["nodes"]] == [
        ("node-a", [0, 1]),
        ("node-b", [2, 3]),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_a_signal_is_told_to_who_started_it_through_a_launcher_that_hides_it(tmp_path: Path) -> None:
    program = """
import os, signal, time
from unipool_dist.cli import main
from unipool_dist.doctor.examination import Examination
Examination.run = lambda self: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(60))
main()
"""
    command = [*COMMAND[:1], "-c", program, *COMMAND[3:], f"--status-file={tmp_path / 'status'}"]
    assert subprocess.run(command, cwd=tmp_path, env=one_thread(), timeout=50).returncode == 143
    assert (tmp_path / "status").read_text() == "143"


def test_ranks_that_do_not_come_are_named(tmp_path: Path) -> None:
    started = time.monotonic()
    verdict = examine_as_ranks("", [0, 2], 4, "--timeout=8", cwd=tmp_path)
    assert time.monotonic() - started < 35
    assert verdict.statuses == [1, 1]
    (check,) = verdict.document["checks"]
    assert check["name"] == "rendezvous" and check["status"] == "fail"
    assert check["measured"] == "ranks 1, 3 of 4 missing after 8 s"
    assert check["figures"]["missing"] == [1, 3] and "ranks 0, 2" in check["advice"]


def test_without_rank_0_the_others_say_so(tmp_path: Path) -> None:
    verdict = examine_as_ranks("", [1], 2, "--timeout=1", cwd=tmp_path)
    assert verdict.statuses == [1]
    assert "error (rank 1): rank 0 was not to be reached at MASTER_ADDR=127.0.0.1" in verdict.stderr
    assert "Traceback" not in verdict.stderr


def test_a_layout_that_cannot_be_is_a_failed_check_and_the_table_says_what_to_do(tmp_path: Path) -> None:
    command = [*(part for part in COMMAND if part != "--json"), "--time-limit=0", "parallel.pp=3", "run.dir=."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, env=one_thread())
    lines = done.stdout.splitlines()
    assert done.returncode == 1, done.stderr
    assert next(line for line in lines if line.startswith("fail  configuration  "))
    assert next(line for line in lines if line.startswith("fail  configuration: ") and "parallel.pp=3" in line)
    assert next(line for line in lines if line.startswith("warn  compute: the time limit of 0 s has passed"))
    assert lines[-1].startswith("not ok: 1 failed, ")
