"""Who can reach the processes of one machine: nobody else. What they listen on, what they load, what they leave."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from torch.distributed.run import config_from_args

from tests.support.runs import train_command
from unipool_dist.cli.torchrun import torchrun

pytestmark = pytest.mark.real_programs

HOSTILE = "import pathlib; pathlib.Path(__file__).with_name('EXECUTED').touch()\nraise SystemExit('hostile')\n"
"""A module that is not to be imported."""


class Watched:
    """A run, and what its processes were seen to listen on."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.here = folder / "here"
        self.here.mkdir()
        for name in ("psutil", "yaml", "datasets", "torch"):
            (self.here / f"{name}.py").write_text(HOSTILE)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary)}
        self.modes: set[int] = set()
        self.seen: dict[str, set[str]] = {}
        """By what a process is (launcher or rank): the addresses."""
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, cwd=self.here, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + 240
            while process.poll() is None:
                assert time.monotonic() < until
                self._look(psutil.Process(process.pid))
                time.sleep(0.02)
        finally:
            process.kill()
        self.status, self.output = process.wait(), (folder / "log").read_text()

    def _look(self, launcher: psutil.Process) -> None:
        self.modes |= {path.stat().st_mode & 0o777 for path in self.temporary.glob("unipool-dist-*")}
        with suppress(psutil.Error):
            for process in (launcher, *launcher.children(recursive=True)):
                with suppress(psutil.Error):
                    what = "launcher" if process == launcher else f"rank {process.environ()['RANK']}"
                    found = {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
                    self.seen.setdefault(what, set()).update(found)


@pytest.fixture(scope="module")
def watched(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    folder = tmp_path_factory.mktemp("ports")
    return Watched(folder, train_command(tiny_corpus, folder / "run", 4, "train.steps=3", "checkpoint.interval=2"))


def test_four_processes_on_one_machine_listen_on_loopback_alone(watched: Watched) -> None:
    assert watched.status == 0, watched.output
    assert watched.seen.keys() == {"launcher", "rank 0", "rank 1", "rank 2", "rank 3"}
    assert watched.seen["launcher"] == set()
    for addresses in watched.seen.values():
        assert all(ipaddress.ip_address(address).is_loopback for address in addresses)
    assert watched.seen["rank 0"], "gloo listens somewhere, so this was not looked at"


def test_nothing_is_imported_from_the_current_directory(watched: Watched) -> None:
    assert watched.status == 0, watched.output
    assert not (watched.here / "EXECUTED").exists()


def test_the_files_that_processes_meet_in_are_private_and_gone_at_the_end(watched: Watched) -> None:
    assert watched.modes == {0o700}
    assert [path for path in watched.temporary.iterdir() if path.name.startswith(("torchelastic", "unipool"))] == []


SERVED = """
import base64, os, pickle, sys, time, torch.distributed as dist
from datetime import timedelta
import psutil

class Evil:
    def __reduce__(self):
        return os.mkdir, (sys.argv[1],)

# As another user of the machine, who reaches loopback, against torch's own rendezvous (which asks every few seconds).
store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
for run in ("unipool-dist", os.environ["TORCHELASTIC_RUN_ID"]):
    store.set(f"torch.rendezvous.{run}", base64.b64encode(pickle.dumps(Evil())))
time.sleep(6)
dist.init_process_group("gloo", timeout=timedelta(seconds=20))
parent = psutil.Process().parent()
print(sorted({c.laddr.ip for c in parent.net_connections("inet") if c.status == "LISTEN"}))
dist.destroy_process_group()
"""


def test_another_program_finds_its_server_on_loopback(tmp_path: Path) -> None:
    """``unipool-dist torchrun`` of one node: nobody unpickles what lies in it, as torch's own rendezvous does."""
    program = tmp_path / "program.py"
    program.write_text(SERVED)
    command = [sys.executable, "-m", "unipool_dist", "torchrun", "--standalone", "--nproc-per-node=2", str(program)]
    command.append(str(tmp_path / "EXECUTED"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['127.0.0.1']"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]


@pytest.mark.parametrize(
    "options",
    [
        ["--standalone"],
        ["--nnodes=1"],
        ["--nnodes=1:1"],
        [],
        ["--nnodes=1", "--master-addr=0.0.0.0", "--master-port=29511"],
        ["--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=0.0.0.0:29511", "--rdzv-id=x"],
        ["--standalone", "--rdzv-backend=etcd", "--rdzv-conf=is_host=1"],
    ],
)
@pytest.mark.parametrize("ours", [True, False])
def test_one_node_never_takes_a_rendezvous_of_torchs(
    monkeypatch: pytest.MonkeyPatch, options: list[str], ours: bool
) -> None:
    taken = []

    def started(arguments: Namespace) -> None:
        config, _, _ = config_from_args(arguments)
        taken.append((arguments.standalone, config.rdzv_backend, config.rdzv_configs["serves"], config.max_nodes))

    monkeypatch.setattr("torch.distributed.run.run", started)
    monkeypatch.setattr("unipool_dist.run.launch.run_agent", lambda agent, num_processes, *, hold: agent())
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    program = ["-m", "unipool_dist", "train"] if ours else ["other.py"]
    done = CliRunner().invoke(torchrun, [*options, *program], catch_exceptions=False)
    assert (done.exit_code, taken) == (0, [(False, "unipool-dist", str(not ours), 1)])
