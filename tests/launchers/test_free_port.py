"""A port for a job: free on the node, another one for another job, none that the kernel gives to connections."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

FREE_PORT = Path(__file__).parents[2] / "launchers" / "free_port.sh"
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def port(job: int, **variables: str) -> int:
    environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": str(job), **variables}
    return int(subprocess.run([FREE_PORT], env=environment, capture_output=True, check=True, timeout=10).stdout)


def nobody_near(port: int) -> bool:
    """Whether nothing else on this machine uses a port that jobs around this one would be given."""
    with suppress(FileNotFoundError):
        files = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
        lines = [line.split() for file in files for line in file.read_text().splitlines()[1:]]
        return not any(port <= int(fields[1].rpartition(":")[2], 16) < port + 5 * 16 for fields in lines)
    return True


def test_the_same_job_finds_the_same_port_and_others_find_others() -> None:
    first = next(job for job in range(4700, 5700, 10) if nobody_near(port(job)))
    assert port(first) == port(first)
    assert (
        len(
            {port(job) for job in range(first, first + 5)}
            | {port(first, SLURM_STEP_ID="1"), port(first, SLURM_RESTART_COUNT="2")}
        )
        == 7
    )


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="without /proc the sockets of a node are not known")
@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0"),
        (socket.AF_INET6, "::1"),
        (socket.AF_INET6, "::"),
    ],
)
def test_a_port_in_use_is_passed_over(family: int, address: str) -> None:
    first = port(815)
    with socket.socket(family) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((address, first))
        other.listen()
        second = port(815)
    assert second != first
    assert port(815) == first


@pytest.mark.skipif(not EPHEMERAL.exists(), reason="the kernel does not say which ports are ephemeral")
def test_no_ephemeral_port() -> None:
    low, high = map(int, EPHEMERAL.read_text().split())
    if low < 11000 and high > 64000:
        pytest.skip("nearly all ports of this machine are ephemeral")
    found = [port(job) for job in (1, 99, 4294967295)]
    assert all(1024 < each < low or high < each < 65536 for each in found)


def test_it_takes_next_to_no_time() -> None:
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        port(4711)
        taken.append(time.perf_counter() - started)
    assert min(taken) < 0.2
