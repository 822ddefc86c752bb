"""Runs of the command line that get stuck: who differs is named, and the run ends so that it can be resumed."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure, get_error_handler

from tests.resilience import stuck_run
from tests.support.running import Run, last_step, one_thread, train_records
from tests.support.runs import train_command
from tests.support.workers import free_port
from unipool_dist.base.credentials import KEY, new_key
from unipool_dist.resilience.watchdog_inquiry import ANSWER_S, LOOK_S
from unipool_dist.resilience.watchdog_report import NoProgressError, Whereabouts
from unipool_dist.run.launch import outcome

pytestmark = pytest.mark.timing

LIMIT_S, STEPS = 3.0, 6
SLACK_S = ANSWER_S + LOOK_S + 6
"""Beside the limit: answers, a look at who does not, and what the launcher takes on a busy machine."""
COMMON = (
    f"run.watchdog_s={LIMIT_S:g}",
    "log.tensorboard=false",
    "train.micro_batch_size=1",
    "train.eval_sequences=0",
    "checkpoint.interval=2",
)
WHOLE = (f"train.steps={STEPS}", *COMMON)

Start = Callable[..., Run]


@pytest.fixture(scope="module")
def start_in(tiny_corpus: Path, request: pytest.FixtureRequest) -> Start:
    """Starts a run in a folder's ``run``; ``kind``: one of :mod:`tests.resilience.stuck_run`."""

    def starting(folder: Path, nproc: int, *arguments: str, kind: str | None = None) -> Run:
        command = train_command(tiny_corpus, folder / "run", nproc, *arguments)
        if kind is not None:
            at = command.index("--nproc")
            del command[at : at + 2]
            command[1:3] = ["-m", "tests.resilience.stuck_run", "--nproc", str(nproc), kind]
        run = Run(command, folder / "run", folder / f"log {time.monotonic_ns()}")
        request.addfinalizer(run.kill)
        return run

    return starting


@pytest.fixture
def start(start_in: Start, tmp_path: Path) -> Start:
    return functools.partial(start_in, tmp_path)


@pytest.fixture(scope="module")
def held_at_the_end(start_in: Start, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trains all steps; then one rank gets stuck."""
    return start_in(tmp_path_factory.mktemp("held"), 2, *WHOLE, kind="end")


def ended_by_watchdog(run: Run) -> tuple[list[str], Path]:
    """The summary's lines, without the blanks before them, and the folder with the stacks."""
    status, output = run.end()
    assert status == 75, output
    assert "Traceback" not in output and "lost the other processes" not in output
    (folder,) = (run.run_dir / "watchdog").iterdir()
    summary = (folder / "summary.txt").read_text()
    assert output.count(summary) == 1, "said once, and as it was written down"
    assert output.splitlines()[-1] == (
        f"ended: the run made no progress, see {folder}/summary.txt; the same command with --resume continues from the "
        f"newest checkpoint"
    )
    return [line.strip() for line in summary.splitlines()], folder


def losses(run_dir: Path) -> list[float]:
    records = train_records(run_dir)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    return [record["loss"] for record in records]


def test_a_stopped_rank_is_named_and_the_run_ends_in_time(start: Start) -> None:
    run = start(4, "train.steps=100000", *COMMON, "parallel.pp=2")
    run.wait_for_step(3)
    ranks = run.ranks()
    os.kill(ranks[2], signal.SIGSTOP)
    stopped = time.monotonic()
    lines, folder = ended_by_watchdog(run)
    assert time.monotonic() - stopped < LIMIT_S + SLACK_S
    assert re.fullmatch(r"watchdog: the run makes no progress in step \d+; rank 2 differs", lines[0])
    process = f"process {ranks[2]} on host {socket.gethostname()}"
    assert lines[1] == f"rank 2 did not answer: {process} is stopped (SIGSTOP, or a debugger holds it)"
    assert re.match(r"ranks? [013,-]+ waits? in \w+ #\d+ of \w+ \(ranks [\d,-]+\), which ranks? \S*2\S* ha", lines[2])
    assert {path.name for path in folder.glob("rank-*")} == {"rank-0.txt", "rank-1.txt", "rank-3.txt"}
    for path in folder.glob("rank-*"):
        text = path.read_text()
        assert "thread MainThread (innermost call first):" in text and "unipool_dist/engine/trainer.py" in text
        assert text.count("NOT COMPLETED") == 1


def test_a_rank_stuck_in_python_is_named_with_its_line_and_a_resume_goes_on(
    start: Start, held_at_the_end: Run, tmp_path: Path
) -> None:
    """The resumed run is slow but alive, and busy for long before it begins; it is left alone."""
    lines, folder = ended_by_watchdog(start(2, *WHOLE, kind="python"))
    source = Path(stuck_run.__file__)
    at = next(n for n, line in enumerate(source.read_text().splitlines(), 1) if "the summary names" in line)
    assert lines[0] == f"watchdog: the run makes no progress in step {stuck_run.STUCK_STEP}; rank 1 differs"
    assert lines[1].startswith(f"rank 1 is not in a collective but at {source}:{at} sleep_in_python, called from ")
    assert "reading micro-batch 0; last completed: all_reduce #" in lines[1] and "1 behind in world" in lines[1]
    assert re.fullmatch(
        r"rank 0 waits in all_reduce #\d+ of world \(ranks 0-1\), which rank 1 has not entered", lines[2]
    )
    assert f'File "{source}", line {at}, in sleep_in_python' in (folder / "rank-1.txt").read_text()

    began = time.monotonic()
    status, output = start(2, *WHOLE, "--resume", kind="slow").end()
    assert status == 0 and "resumed after step 2" in output and "watchdog" not in output, output
    slow_step_s = 4 * stuck_run.SLOW_S
    assert slow_step_s > LIMIT_S and stuck_run.BUSY_S > 2 * LIMIT_S, "both are longer than the limit"
    assert time.monotonic() - began > slow_step_s + stuck_run.BUSY_S
    assert list((tmp_path / "run" / "watchdog").iterdir()) == [folder]
    np.testing.assert_array_equal(losses(tmp_path / "run"), losses(held_at_the_end.run_dir))


def test_a_rank_in_another_collective_is_named(start: Start) -> None:
    lines, _ = ended_by_watchdog(start(3, *WHOLE, "train.global_batch_size=12", kind="collective"))
    assert lines[0].endswith("; rank 1 differs")
    place = r"#(\d+) of world \(ranks 0-2\), which"
    most = re.fullmatch(rf"ranks 0,2 wait in all_reduce {place} rank 1 has not entered", lines[1])
    other = re.fullmatch(rf"rank 1 waits in all_to_all {place} ranks 0,2 have not entered", lines[2])
    assert most is not None and other is not None and most[1] == other[1]


def test_a_rank_held_in_c_at_the_end_of_the_run_is_named_with_its_line(held_at_the_end: Run) -> None:
    """No Python runs there, so it cannot answer; the others wait at the last barrier."""
    lines, folder = ended_by_watchdog(held_at_the_end)
    assert lines[0].endswith(f"in step {STEPS}; rank 1 differs")
    assert re.fullmatch(
        r"rank 1 did not answer: process \d+ on host \S+ is there, but runs no Python: a C call holds the interpreter, "
        r"made at .*stuck_run\.py:\d+ hold_the_interpreter",
        lines[1],
    )
    assert re.fullmatch(r"rank 0 waits in barrier #\d+ of world \(ranks 0-1\), which rank 1 has not entered", lines[2])
    assert "in hold_the_interpreter" in (folder / "rank-1.txt").read_text()


def test_without_rank_0_and_its_store_the_others_speak(tiny_corpus: Path, tmp_path: Path) -> None:
    """As srun starts them: nothing but rank 0 has the store, and nobody ends the others.

    Whoever reaches that store leaves notes there as the watchdog would: they neither end the run nor have a process
    killed.
    """
    run_dir, port = tmp_path / "run", free_port()
    command = train_command(tiny_corpus, run_dir, 2, "train.steps=100000", *COMMON)
    at = command.index("--nproc")
    command = command[:at] + command[at + 2 :]
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), KEY: new_key()}
    bystander = subprocess.Popen(["sleep", "300"], env={**os.environ, **meeting, "RANK": "1", KEY: ""})
    logs = [tmp_path / f"log {rank}" for rank in range(2)]
    ranks = []
    try:
        for rank, log in enumerate(logs):
            variables = {**one_thread(), **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            with log.open("w") as output:
                ranks.append(subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT))
        until = time.monotonic() + 240
        while last_step(run_dir) < 3:
            assert time.monotonic() < until and all(rank.poll() is None for rank in ranks), logs[0].read_text()
            time.sleep(0.02)
        assert {c.laddr.ip for c in psutil.Process(ranks[0].pid).net_connections() if c.status == "LISTEN"} == {
            "127.0.0.1"
        }
        plant_notes(port, bystander.pid)
        attacked, until = last_step(run_dir), time.monotonic() + 240
        while last_step(run_dir) < attacked + 10 or time.monotonic() < until - 239:  # several looks at the notes
            assert time.monotonic() < until and all(rank.poll() is None for rank in ranks), logs[0].read_text()
            time.sleep(0.02)
        ranks[0].send_signal(signal.SIGSTOP)
        assert ranks[1].wait(40) == 75, logs[1].read_text()
        assert ranks[0].wait(10) == -signal.SIGKILL, "it could not end itself"
        assert bystander.poll() is None, "killed for what a note said"
    finally:
        for process in (*ranks, bystander):
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()
    said = logs[1].read_text()
    assert "rank 0 differs" in said
    assert f"rank 0 did not answer: process {ranks[0].pid} on host {socket.gethostname()} is stopped" in said
    (folder,) = (run_dir / "watchdog").iterdir()
    assert (folder / "summary.txt").read_text() in said


def plant_notes(port: int, pid: int) -> None:
    """As somebody else who reaches the store: the run is stuck, and rank 1, which does not answer, is ``pid``."""
    store = dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=10))
    prefixes = [
        f"world/{default}watchdog/" for default in ("", "default_pg/", "default_pg/0//", "default_pg/0/", "0//")
    ]
    prefix = next(each for each in prefixes if store.check([each + "where/1"]))
    where = Whereabouts(1, socket.gethostname(), pid, psutil.Process(pid).create_time(), None).to_json()
    alarm = json.dumps({"rank": 0, "doing": "\x1b[2J whatever"})
    for name, text in (("where/1", where), ("silent", json.dumps([where])), ("alarm", alarm), ("done", "")):
        store.set(prefix + name, text)


def test_a_beat_costs_next_to_nothing() -> None:
    program = """
import json, time
from pathlib import Path
from unipool_dist.resilience.watchdog import Watchdog
beat, number = Watchdog(10.0, Path("unused"), 0, 1).doing, 50_000
began = time.process_time()
for i in range(number):
    beat("forward of micro-batch 3")
print(json.dumps((time.process_time() - began) / number))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=True)
    assert json.loads(done.stdout) < 20e-6, "seconds; a micro-batch of a small model takes milliseconds"


def test_the_launcher_ends_with_75_whatever_became_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank was killed at once, and one fell over the end of another before it ended itself."""
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    get_error_handler().record_exception(NoProgressError("RUN/summary.txt"))
    codes = {0: 75, 1: -signal.SIGKILL, 2: 1}
    failures = {
        rank: ProcessFailure(rank, 100 + rank, code, str(file) if rank == 0 else "none") for rank, code in codes.items()
    }
    status, line = outcome(ChildFailedError("python", failures))
    assert status == 75 and line.startswith(
        "ended: the run made no progress, see RUN/summary.txt; the same command with"
    )
    del failures[0]
    assert outcome(ChildFailedError("python", failures))[0] == 1
