"""A program that is a fork of a preloaded process cannot be told from one that was started, by itself or by others."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.preloaded.session import PRELOADED
from tests.support.preloaded.spawning import parsed, settled_by_importing
from tests.support.running import one_thread, train_records
from tests.support.runs import train_command

WITNESS = [sys.executable, "-m", "tests.support.preloaded.witness"]
ROOT = Path(__file__).parents[3]


def both_ways(command: list[str], **options: Any) -> list[subprocess.CompletedProcess[str]]:
    """What comes of it as a fork and as a process of its own."""
    ended = []
    for real in (False, True):
        with PRELOADED.started_as(real=real):
            ended.append(subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options))
    return ended


@contextmanager
def ignored(number: signal.Signals) -> Iterator[None]:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"start_new_session": True, "input": "a line\nand another"},
        {"env": {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": f"/nowhere:{ROOT}", "A": "ä\udcff b"}},
        {"env": {**os.environ, "PYTHONPATH": f"{ROOT}:/nowhere:{ROOT}:"}, "cwd": "/"},
    ],
)
def test_a_program_sees_the_same_of_how_it_was_started(options: dict[str, Any]) -> None:
    with ignored(signal.SIGHUP):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        try:
            fork, process = both_ways([*WITNESS, "x", "", "ä b"], **{"cwd": ROOT, **options})
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    assert process.returncode == fork.returncode == 0, fork.stderr + process.stderr
    assert json.loads(fork.stdout) == json.loads(process.stdout)
    assert json.loads(fork.stdout)["parent"] == os.getpid()
    assert fork.stderr == process.stderr == ""


def test_what_a_program_starts_is_its_child_either_way() -> None:
    said = [ended.stdout.splitlines() for ended in both_ways([*WITNESS, "parent"], cwd=ROOT)]
    for report, parent in said:
        assert json.loads(report)["parent"] == int(parent)
    first, second = ({**json.loads(report), "parent": 0} for report, _ in said)
    assert first == second
    assert first["leads a session"] and first["standard input"] == "from the parent"


def test_how_a_program_ends_is_seen_either_way() -> None:
    fork, process = both_ways([*WITNESS, "fails"], cwd=ROOT)
    assert fork.returncode == process.returncode == 1
    assert fork.stderr.splitlines()[-1] == process.stderr.splitlines()[-1] == "ValueError: on purpose"
    with PRELOADED.started_as(real=False):
        waiting = subprocess.Popen([*WITNESS, "wait"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with waiting:
        assert waiting.stdout is not None and waiting.stdout.readline() == "waiting\n"
        helpers = psutil.Process(waiting.pid).children()
        assert [helper.cmdline()[1] for helper in helpers] == ["preloaded"]
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(20) == -signal.SIGTERM
        assert psutil.wait_procs(helpers, timeout=20)[1] == [], "it takes its helper along"


def test_a_run_says_and_records_the_same_either_way(tiny_corpus: Path, tmp_path: Path) -> None:
    """Through a launcher and its ranks, which are forks too."""
    said, records = [], []
    for real in (False, True):
        run_dir = tmp_path / str(real) / "run"
        command = train_command(tiny_corpus, run_dir, 2, "train.steps=4", "parallel.pp=2", "log.interval=1")
        with PRELOADED.started_as(real=real):
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=one_thread())
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        texts = [text.replace(str(run_dir), "RUN") for text in (done.stdout, done.stderr)]
        said.append([re.sub(r"\d[\d.,]*", "#", text).split() for text in texts])
        records.append(train_records(run_dir))
    assert said[0] == said[1]
    for fork, process in zip(*records, strict=True):
        for number in ("step", "loss", "grad_norm", "aux_loss", "lr"):
            assert fork[number] == process[number], number


@pytest.mark.parametrize(
    ("command", "forked"),
    [
        (["-m", "unipool_dist", "train"], True),
        (["-P", "-m", "unipool_dist", "train"], True),
        (["-m", "unipool_dist.jobs", "run"], False),
        (["-I", "-m", "unipool_dist"], False),
        (["-c", "import unipool_dist"], False),
        (["-m"], False),
    ],
)
def test_only_what_was_imported_is_forked(command: list[str], forked: bool) -> None:
    assert (parsed([sys.executable, *command]) is not None) == forked
    assert parsed(["python", *command]) is None, "another Python, perhaps"


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR", "LC_ALL", "PYTHONUTF8"])
def test_what_importing_settles_keeps_a_program_from_being_forked(name: str) -> None:
    assert settled_by_importing({name: "x"}) != settled_by_importing({})
    assert settled_by_importing({"PYTHONPATH": "x", "RANK": "1", "PYTHONSAFEPATH": "1"}) == settled_by_importing({})
