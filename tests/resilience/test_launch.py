"""The launcher passes signals on and says how the run ended. Its processes are stand-ins for ranks, without torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from unipool_dist.run.launch import outcome

pytestmark = pytest.mark.timing

LAUNCH = """
import os, signal, sys
from unipool_dist.run import launch
if "early" in sys.argv:
    start = launch.elastic_launch
    def signalled(config, entrypoint):
        os.kill(os.getpid(), signal.SIGTERM)
        return start(config, entrypoint)
    launch.elastic_launch = signalled
launch.launch_local(sys.argv[2:], 2, program=["-c", sys.argv[1]])
"""
RANK = """
import os, sys, time
from unipool_dist.resilience.orphans import end_with_launcher
from unipool_dist.resilience.signals import StopSignals
end_with_launcher()
rank = int(os.environ["RANK"])
with StopSignals(rank) as signals:
    os.write(1, f"process {os.getpid()}\\n".encode())  # not print(): unbuffered, it writes the line's end apart
    while signals.received is None or "stubborn" in sys.argv:
        time.sleep(0.05)
    signals.ignore_from_now()
    time.sleep(1.2 * rank)  # long enough for the agent to see that the other has ended, and to send SIGTERM
sys.exit(75)
"""


class Launched:
    """A launcher of two ranks, and its output so far."""

    def __init__(self, folder: Path, *arguments: str, under: Sequence[str] = ()) -> None:
        self.log = folder / "log"
        command = [*under, sys.executable, "-c", LAUNCH, RANK, *arguments]
        with self.log.open("w") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def wait_for(self, text: str, count: int = 1) -> None:
        until = time.monotonic() + 60
        while self.log.read_text().count(text) < count:
            assert self.process.poll() is None and time.monotonic() < until, self.log.read_text()
            time.sleep(0.02)

    def ranks(self) -> list[int]:
        self.wait_for("process ", 2)
        return [int(line.split()[1]) for line in self.log.read_text().splitlines() if line.startswith("process ")]

    def end(self, timeout_s: float = 60) -> tuple[int, str]:
        return self.process.wait(timeout_s), self.log.read_text()

    def kill(self) -> None:
        pids = [int(line.split()[1]) for line in self.log.read_text().splitlines() if line.startswith("process ")]
        for pid in (self.process.pid, *pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def launch(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Launched]:
    def launching(*arguments: str, under: Sequence[str] = ()) -> Launched:
        launched = Launched(tmp_path, *arguments, under=under)
        request.addfinalizer(launched.kill)
        return launched

    return launching


def test_a_signal_reaches_each_rank_once_and_all_may_save(launch: Callable[..., Launched]) -> None:
    launched = launch()
    launched.ranks()
    launched.process.send_signal(signal.SIGUSR1)
    code, output = launched.end()
    assert code == 75
    assert sorted(line for line in output.splitlines() if "received" in line) == [
        f"rank {rank}: SIGUSR1 received: finishing this step, saving, and stopping; a second signal ends the process "
        f"at once"
        for rank in (0, 1)
    ]
    assert output.splitlines()[-1] == "stopped: the same command with --resume continues"
    assert "failed" not in output and "Traceback" not in output


def test_a_lost_terminal_is_a_request_to_stop(launch: Callable[..., Launched]) -> None:
    launched = launch()
    launched.ranks()
    launched.process.send_signal(signal.SIGHUP)
    code, output = launched.end()
    assert code == 75 and output.count("SIGHUP received: finishing this step") == 2
    assert output.splitlines()[-1] == "stopped: the same command with --resume continues"


def test_under_nohup_a_lost_terminal_is_nothing(launch: Callable[..., Launched]) -> None:
    launched = launch(under=["nohup"])
    for pid in (launched.process.pid, *launched.ranks(), launched.process.pid):
        os.kill(pid, signal.SIGHUP)
        time.sleep(0.3)
    assert launched.process.poll() is None and "received" not in launched.log.read_text()
    launched.process.send_signal(signal.SIGTERM)
    code, output = launched.end()
    assert code == 75 and output.count("SIGTERM received") == 2 and "SIGHUP" not in output


def test_a_second_signal_ends_ranks_that_do_not_stop(launch: Callable[..., Launched]) -> None:
    launched = launch("stubborn")
    launched.ranks()
    launched.process.send_signal(signal.SIGINT)
    launched.wait_for("SIGINT received: finishing this step", 2)
    time.sleep(0.3)
    launched.process.send_signal(signal.SIGINT)
    code, output = launched.end()
    assert code == 1
    assert output.count("SIGINT received, the second signal: ending at once") == 2
    assert "error: rank 0" in output.splitlines()[-1] and "ended at a second signal, SIGINT" in output.splitlines()[-1]
    assert "Traceback" not in output


def test_a_killed_launcher_takes_its_ranks_along(launch: Callable[..., Launched]) -> None:
    launched = launch("stubborn")
    ranks = launched.ranks()
    launched.process.kill()
    until = time.monotonic() + 5
    while any(alive(pid) for pid in ranks):
        assert time.monotonic() < until, "the ranks live on"
        time.sleep(0.05)


PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
assert child.stdout.readline() == b"ready\\n"
print(child.pid, flush=True)
sys.stdin.read()
"""
CHILD = """
import time
from unipool_dist.resilience.orphans import end_with_launcher
end_with_launcher()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("announced", [True, False])
def test_a_process_ends_with_whatever_launcher_started_it(announced: bool) -> None:
    """torchrun does not say who it is."""
    parent = PARENT.replace("child =", 'os.environ["UNIPOOL_DIST_LAUNCHER_PID"] = str(os.getpid())\nchild =')
    program = parent if announced else PARENT
    variables = {**os.environ, "TORCHELASTIC_RUN_ID": "x"}
    command = [sys.executable, "-c", program, CHILD]
    with subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        child = int(launcher.stdout.readline())
        launcher.kill()
    until = time.monotonic() + 5
    while alive(child):
        assert time.monotonic() < until, "it lives on"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_signal_before_there_are_ranks_reaches_them_as_they_start(launch: Callable[..., Launched]) -> None:
    """Whether it finds them able to save, or ends them before."""
    code, output = launch("early").end()
    assert code in (1, 75)
    assert (
        "was killed by SIGTERM" if code == 1 else "stopped: the same command with --resume continues"
    ) in output.splitlines()[-1]
    assert "Traceback" not in output


def ended(exit_codes: dict[int, int], seconds: dict[int, int]) -> tuple[int, str]:
    failures = {rank: ProcessFailure(rank, 100 + rank, code, "no-file") for rank, code in exit_codes.items()}
    for rank, failure in failures.items():
        failure.timestamp = 1000 + seconds.get(rank, 0)
    return outcome(ChildFailedError("python", failures))


STOPPED = "stopped: the same command with --resume continues"
BY_AGENT = {1: 31}  # seconds after the first failure


@pytest.mark.parametrize(
    ("exit_codes", "seconds", "status", "line"),
    [
        ({0: 75, 1: 75}, {}, 75, STOPPED),
        ({0: 75, 1: -signal.SIGTERM}, {}, 75, STOPPED),
        ({0: 75, 1: -signal.SIGKILL}, BY_AGENT, 75, STOPPED),
        ({0: 75, 1: -signal.SIGKILL}, {}, 1, "error: rank 1 (process 101) was killed by SIGKILL (out of memory?)"),
        ({0: 75, 1: -signal.SIGBUS}, {}, 1, "error: rank 1 (process 101) was killed by SIGBUS (a mapped file, such as"),
        ({0: 75, 1: 1}, {}, 1, "error: rank 1 (process 101) ended with status 1; its error is above"),
        ({0: 1, 1: -signal.SIGKILL}, {}, 1, "error: rank 1 (process 101) was killed by SIGKILL (out of memory?)"),
        ({0: 1, 1: -signal.SIGKILL}, BY_AGENT, 1, "error: rank 0 (process 100) ended with status 1"),
        ({0: -signal.SIGTERM, 1: 1}, {}, 1, "error: rank 1 (process 101) ended with status 1"),
        ({0: 1, 1: 2}, {0: 1}, 1, "error: rank 1 (process 101) ended with status 2"),
        ({0: -signal.SIGTERM, 1: -signal.SIGTERM}, {}, 1, "error: rank 0 (process 100) was killed by SIGTERM"),
    ],
)
def test_the_cause_of_the_end_is_named(
    exit_codes: dict[int, int], seconds: dict[int, int], status: int, line: str
) -> None:
    code, said = ended(exit_codes, seconds)
    assert code == status
    assert said.startswith(line)
