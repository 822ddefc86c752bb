"""Runs that fail: every rank stops, the message says what happened and what to do, nothing hangs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.runs import train_command
from tests.support.training import batches_of, built, tiny_config
from tests.support.workers import Workers, free_port
from unipool_dist.comm.environment import Environment
from unipool_dist.config import dump_config, load_config
from unipool_dist.errors import NonFiniteError

ENDLESS = ("train.steps=100000", "log.interval=1")


def _nan_step(environment: Environment, where: str, port: int) -> str:
    """A step that meets a NaN on one rank only; returns the error and checks that no weight changed."""
    config = tiny_config("parallel.pp=2", world_size=environment.world_size)
    with built(config, replace(environment, master_port=port)) as (groups, model, train_step):
        parameters = dict(model.named_dense_parameters())
        if groups.rank == 3 and where == "loss":
            parameters["final_norm.weight"].data[0] = float("nan")
        if groups.rank == 1 and where == "gradient":
            parameters["layers.0.attention_norm.weight"].register_hook(lambda gradient: gradient * float("inf"))
        before = [parameter.detach().clone() for parameter in model.stage.parameters()]
        try:
            train_step.run(7, batches_of(config, groups, 0))
        except NonFiniteError as error:
            for parameter, old in zip(model.stage.parameters(), before, strict=True):
                assert torch.equal(parameter.nan_to_num(), old.nan_to_num())
            return str(error)
        return "no error"


@pytest.mark.parametrize(("where", "name"), [("loss", "loss"), ("gradient", "gradient norm")])
def test_nan_on_one_rank_stops_all_before_any_weight_changes(workers: Workers, where: str, name: str) -> None:
    for message in workers.run(_nan_step, 4, where, free_port()):
        assert message.startswith(f"the {name} of step 7 is")
        assert "no weight was changed" in message and "optimizer.lr" in message


class Running:
    """A started run, its output so far, and its workers' process ids."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)

    def wait_for(self, text: str, timeout_s: float = 300) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def workers(self) -> list[int]:
        """Process ids of the ranks, in no particular order."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        command_lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
        return [pid for pid, line in command_lines.items() if b"unipool_dist" in line]

    def end(self, timeout_s: float) -> tuple[int, str]:
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {timeout_s} s:\n{self.log.read_text()}")
        finally:
            self.kill()
        return code, self.log.read_text()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture
def start(tiny_corpus: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Running]:
    def starting(*overrides: str, nproc: int = 2, corpus: Path = tiny_corpus) -> Running:
        run = Running(train_command(corpus, tmp_path / "run", nproc, *overrides), tmp_path / "log")
        request.addfinalizer(run.kill)
        return run

    return starting


def test_a_killed_rank_ends_the_run_and_is_named(start: Callable[..., Running]) -> None:
    run = start("parallel.pp=2", *ENDLESS)
    run.wait_for("step      3/")
    os.kill(run.workers()[1], signal.SIGKILL)
    code, output = run.end(timeout_s=120)
    assert code == 1
    assert "was killed by SIGKILL" in output and "all processes were ended" in output
    assert "Traceback" not in output


def test_a_stuck_rank_ends_the_run_within_the_timeout(start: Callable[..., Running]) -> None:
    """Without the watchdog, which is quicker than the timeout if it is left to itself."""
    run = start("parallel.pp=2", *ENDLESS, "parallel.timeout_s=5", "run.watchdog_s=1000")
    run.wait_for("step      3/")
    os.kill(run.workers()[1], signal.SIGSTOP)
    code, output = run.end(timeout_s=180)
    assert code == 1
    assert "lost the other processes in a collective" in output and "parallel.timeout_s=5" in output


def test_an_impossible_layout_is_refused_before_processes_start(start: Callable[..., Running]) -> None:
    run = start("parallel.pp=2", "parallel.dp=4")
    code, output = run.end(timeout_s=120)
    assert code == 1
    assert output.startswith(
        "error: parallel.pp=2 x parallel.tp=1 x parallel.dp=4 needs 8 processes but 2 were started"
    )


def test_a_missing_file_is_named(start: Callable[..., Running], tiny_corpus: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_corpus, broken)
    (broken / "sums.train.bin").unlink()
    code, output = start(corpus=broken).end(timeout_s=120)
    assert code == 1
    assert "sums.train.bin is missing" in output and "unipool-dist data prepare" in output


def test_a_corrupt_file_stops_all_ranks(start: Callable[..., Running], tiny_corpus: Path, tmp_path: Path) -> None:
    """Same size, other bytes: only the hash, or a token outside the vocabulary, shows it."""
    broken = tmp_path / "broken"
    shutil.copytree(tiny_corpus, broken)
    store = broken / "sums.train.bin"
    store.write_bytes(b"\xff" * store.stat().st_size)
    code, output = start("parallel.pp=2", corpus=broken).end(timeout_s=180)
    assert code == 1
    assert "has token 65535, outside vocab_size=320" in output and "data.verify=hash" in output
    run = start("parallel.pp=2", "data.verify=hash", "--overwrite", corpus=broken)
    code, output = run.end(timeout_s=180)
    assert code == 1
    assert "sums.train.bin is corrupt" in output


def test_a_run_directory_is_not_overwritten(start: Callable[..., Running], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    dump_config(load_config(None), tmp_path / "run" / "config.yaml")
    code, output = start().end(timeout_s=120)
    assert code == 1
    assert "already holds a run" in output and "--overwrite" in output
