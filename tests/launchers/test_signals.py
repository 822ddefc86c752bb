"""Signals to the launchers: a request to stop, however early it comes, and status 75 from every one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.running import last_step
from tests.support.runs import train_command
from tests.support.workers import free_port

pytestmark = pytest.mark.timing

LAUNCHERS = Path(__file__).parents[2] / "launchers"
TASK = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
# In place of the program: says that it has started, waits, and says which signals the kernel has kept for it.
PENDING = """#!{python}
import signal, time
print("started", flush=True)
until = time.monotonic() + 30
while not signal.sigpending() and time.monotonic() < until:
    time.sleep(0.02)
print(*sorted(number.name for number in signal.sigpending()))
"""
# In place of scontrol: the launcher that called it gets a signal while it waits.
SCONTROL = """#!/bin/sh
read -r _ _ _ launcher _ </proc/$PPID/stat
kill -USR1 "$launcher"
echo node0
"""


class Started:
    """A launcher under way, all of whose output goes to one file."""

    def __init__(self, log: Path, launcher: str, *arguments: str, **variables: str) -> None:
        self.log = log
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))}
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [LAUNCHERS / launcher, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**clean, "OMP_NUM_THREADS": "1", **variables},
            )

    def wait_for(self, text: str, timeout_s: float = 60) -> None:
        until = time.monotonic() + timeout_s
        while text not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < until, self.log.read_text()
            time.sleep(0.01)

    def end(self) -> tuple[int, str]:
        return self.process.wait(90), self.log.read_text()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Started]]:
    """Launchers to be ended after the test, whatever happened; their processes end with them."""
    launchers: list[Started] = []
    yield launchers
    for each in launchers:
        each.process.kill()
        each.process.wait()


def stand_ins(folder: Path, **programs: str) -> str:
    """A PATH that begins with these programs."""
    folder.mkdir()
    for name, text in programs.items():
        path = folder / name.replace("_", "-")
        path.write_text(text)
        path.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def real_program(folder: Path) -> str:
    """It says when it is started, before Python is."""
    return stand_ins(folder, unipool_dist=f'#!/bin/sh\necho started\nexec "{sys.executable}" -m unipool_dist "$@"\n')


@pytest.mark.parametrize("launcher", ["local.sh", "srun.sh", "torchrun.sh"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_program_that_starts_is_not_killed(
    tmp_path: Path, started: list[Started], launcher: str, number: signal.Signals
) -> None:
    path = stand_ins(tmp_path / "bin", unipool_dist=PENDING.format(python=sys.executable))
    options = () if launcher == "srun.sh" else ("--nproc", "1")
    variables: Mapping[str, str] = {**TASK, "MASTER_ADDR": "node0", "PATH": path}
    started.append(Started(tmp_path / "log", launcher, *options, "configs/small.yaml", **variables))
    started[0].wait_for("started")
    started[0].process.send_signal(number)
    assert started[0].end() == (0, f"started\n{number.name}\n")


def test_a_shell_that_still_prepares_passes_the_signal_on(tmp_path: Path, started: list[Started]) -> None:
    path = stand_ins(tmp_path / "bin", unipool_dist=PENDING.format(python=sys.executable), scontrol=SCONTROL)
    variables = {**TASK, "SLURM_JOB_NODELIST": "n[1-2]", "PATH": path}
    started.append(Started(tmp_path / "log", "srun.sh", "configs/small.yaml", **variables))
    assert started[0].end() == (0, "started\nSIGUSR1\n")


def test_an_old_coreutils_cannot_hold_signals_back(tmp_path: Path, started: list[Started]) -> None:
    old = '#!/bin/sh\ncase $1 in --block*) exit 125 ;; esac\nexec /usr/bin/env "$@"\n'
    path = stand_ins(tmp_path / "bin", unipool_dist="#!/bin/sh\necho ran\n", env=old, scontrol=SCONTROL)
    variables = {**TASK, "SLURM_JOB_NODELIST": "n[1-2]", "PATH": path}
    started.append(Started(tmp_path / "log", "srun.sh", "configs/small.yaml", **variables))
    assert started[0].end() == (
        128 + signal.SIGUSR1,
        "srun.sh: SIGUSR1 received before the program was started: ending\n",
    )
    variables["MASTER_ADDR"] = "n1"
    started.append(Started(tmp_path / "log", "srun.sh", "configs/small.yaml", **variables))
    assert started[1].end() == (0, "ran\n")


def arguments_of(tiny_corpus: Path, run_dir: Path, *overrides: str) -> list[str]:
    command = train_command(tiny_corpus, run_dir, 1, *overrides)
    return command[command.index("train") + 1 :]


@pytest.mark.parametrize("launcher", ["local.sh", "srun.sh", "torchrun.sh"])
def test_a_trainer_stopped_while_it_imports_ends_with_75(
    tmp_path: Path, tiny_corpus: Path, started: list[Started], launcher: str
) -> None:
    path = real_program(tmp_path / "bin")
    arguments = arguments_of(tiny_corpus, tmp_path / "run", "train.steps=100000")
    options = () if launcher == "srun.sh" else ("--nproc", "1")
    variables = {**TASK, "MASTER_ADDR": "localhost"} if launcher == "srun.sh" else {}
    started.append(Started(tmp_path / "log", launcher, *options, *arguments, **variables, PATH=path))
    started[0].wait_for("started")
    started[0].process.send_signal(signal.SIGUSR1)
    status, output = started[0].end()
    assert status == 75, output
    assert output.count("SIGUSR1 received: finishing this step") == 1
    assert "stopped: SIGUSR1 on a rank; no step is done, --resume begins" in output


def test_one_torchrun_per_node_stops_together_and_goes_on(
    tmp_path: Path, tiny_corpus: Path, started: list[Started]
) -> None:
    path, port = real_program(tmp_path / "bin"), free_port()

    def run(*more: str) -> tuple[Started, Started]:
        for node in (0, 1):
            options = ("--nproc", "1", "--nodes", "2", "--node-rank", str(node), "--master", f"localhost:{port}")
            arguments = arguments_of(tiny_corpus, tmp_path / "run", "parallel.pp=2", *more)
            started.append(Started(tmp_path / f"log{node}", "torchrun.sh", *options, *arguments, PATH=path))
        return started[-2], started[-1]

    first, second = run("train.steps=100000")
    first.wait_for("step      1")
    for each in (first, second):
        each.process.send_signal(signal.SIGUSR1)  # as SLURM sends it to every task
    for each in (first, second):
        status, output = each.end()
        assert status == 75, output
        assert output.count("SIGUSR1 received: finishing this step") == 1
        assert "second signal, " not in output and "Traceback" not in output
    first, second = run(f"train.steps={last_step(tmp_path / 'run') + 3}", "--resume")
    assert [first.end()[0], second.end()[0]] == [0, 0], first.log.read_text() + second.log.read_text()


def test_a_node_that_does_not_come_is_missed(tmp_path: Path, started: list[Started]) -> None:
    path, port = real_program(tmp_path / "bin"), free_port()
    options = ("--nproc", "1", "--nodes", "2", "--node-rank", "0", "--master", f"[::1]:{port}", "--timeout", "2")
    started.append(Started(tmp_path / "log", "torchrun.sh", *options, "configs/small.yaml", PATH=path))
    status, output = started[0].end()
    assert status == 1
    assert f"error: the nodes of the run, --nnodes=2, did not meet at --master-addr=::1 --master-port={port} " in output
    assert "1/2 clients joined" in output and "Traceback" not in output
