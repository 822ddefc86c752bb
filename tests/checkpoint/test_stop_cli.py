"""Through the command line: told to stop, a run saves, says so by its exit status, and goes on on any layout."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoint.cli_runs import columns, command_of, complete
from tests.checkpoint.damage import flip_bit
from tests.support.running import Run, last_step
from unipool_dist.checkpoint.directory import CheckpointDirectory

pytestmark = pytest.mark.timing

STEPS = 16


@pytest.fixture
def start(tiny_corpus: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Run]:
    """Starts a run in the directory ``run``."""

    def starting(*arguments: str, nproc: int = 1) -> Run:
        command = command_of(tiny_corpus, tmp_path / "run", *arguments, nproc=nproc)
        run = Run(command, tmp_path / "run", tmp_path / f"log {time.monotonic_ns()}")
        request.addfinalizer(run.kill)
        return run

    return starting


def test_stopped_thrice_on_other_layouts_a_run_gives_the_same_numbers(
    start: Callable[..., Run], tiny_corpus: Path, tmp_path: Path
) -> None:
    """By a signal to one rank of four, to the launcher of two, and to a single process; then with damage found late."""
    steps, run_dir = f"train.steps={STEPS}", tmp_path / "run"
    directory = CheckpointDirectory(run_dir)

    def stopped(run: Run, signal_name: str) -> int:
        status, output = run.end()
        assert status == 75, output
        assert "Traceback" not in output and f"stopped: {signal_name} on a rank; the state is saved" in output
        assert directory.steps()[-1] == last_step(run_dir) < STEPS, "nothing of what was trained is lost"
        return last_step(run_dir)

    run = start(steps, "parallel.pp=2", "parallel.dp=2", nproc=4)
    run.wait_for_step(3)
    os.kill(run.ranks()[random.Random(6).randrange(4)], signal.SIGUSR1)
    stops = [stopped(run, "SIGUSR1")]
    assert run.output().count("SIGUSR1 received") == 1, "the others learn of it from that rank"
    for name, layout, nproc in (("SIGTERM", "parallel.pp=2", 2), ("SIGINT", "parallel.pp=1", 1)):
        run = start(steps, layout, "--resume", nproc=nproc)
        run.wait_for_step(stops[-1] + 2)
        run.process.send_signal(signal.Signals[name])
        stops.append(stopped(run, name))
        assert f"resumed after step {stops[-2]} of {STEPS}" in run.output()
    assert directory.steps() == stops[-2:], "checkpoint.keep_last=2"

    # In a moment: two ranks have by then loaded the masters, and set and gathered parameters from them.
    flip_bit(directory.folder(stops[-1]) / "__0_0.distcp", seed=0, after=0.8)
    said, errors = complete(command_of(tiny_corpus, run_dir, steps, "parallel.dp=2", "--resume", nproc=2))
    damaged = (
        f"the checkpoint of step {stops[-1]} is damaged and passed over: {directory.folder(stops[-1])}/__0_0.distcp"
    )
    assert f"warning: {damaged}" in errors
    assert f"moved aside: {directory.path / 'aside' / directory.folder(stops[-1]).name}.damaged" in said
    assert f"resumed after step {stops[-2]} of {STEPS}" in said
    assert directory.steps() == [stops[-2], STEPS]

    complete(command_of(tiny_corpus, tmp_path / "uninterrupted", steps))
    for column, values in columns(tmp_path / "uninterrupted").items():
        assert len(values) == STEPS
        np.testing.assert_allclose(columns(run_dir)[column], values, rtol=1e-4, err_msg=column)


def test_a_job_started_anew_elsewhere_takes_the_run_over_from_its_former_start(
    start: Callable[..., Run], tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which nobody has ended, as on a node whose slurmd has died."""
    steps, run_dir = "train.steps=4000", tmp_path / "run"
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    former = start(steps, "parallel.pp=2", nproc=2)
    former.wait_for_step(3)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    later = start(steps, "--resume")
    status, output = former.end()
    assert status == 75, output
    assert "stopped: SLURM has restarted this job elsewhere, and that start waits for the run; the state" in output
    done = int(re.findall(r"^step +(\d+)/", output, re.MULTILINE)[-1])
    later.wait_for_step(done + 1)
    assert "is still held by process" in later.output() and f"resumed after step {done} of 4000" in later.output()
    assert "are lost" not in later.output() and not (run_dir / ".handover").exists()
    later.process.send_signal(signal.SIGTERM)
    assert later.end()[0] == 75


def test_a_run_saves_before_its_time_is_up(start: Callable[..., Run], tmp_path: Path) -> None:
    """Also if it took so long to start that there was no time for a step."""
    limit_s = 12
    began = time.monotonic()
    run = start("train.steps=100000", "optimizer.warmup_steps=2", f"run.time_limit_s={limit_s}")
    status, output = run.end()
    took = time.monotonic() - began
    assert status == 75, output
    steps = CheckpointDirectory(tmp_path / "run").steps()
    then = "the state is saved" if steps else "no step is done"
    assert f"stopped: the time limit run.time_limit_s={limit_s} is near; {then}" in output
    assert steps[-1:] == ([last_step(tmp_path / "run")] if steps else [])
    assert not steps or limit_s - 3 < took, "it used its time"


def test_a_second_run_is_refused_and_a_second_signal_ends_the_first_at_once(
    start: Callable[..., Run], tiny_corpus: Path, tmp_path: Path
) -> None:
    """While a step takes long, so that it cannot end in good order meanwhile."""
    run_dir = tmp_path / "run"
    run = start("train.steps=9", "train.global_batch_size=20000", "parallel.dp=2", nproc=2)
    run.wait_for_text("2 processes on cpu")
    before = (run_dir / "config.yaml").read_bytes()
    for flag in ("--resume", "--overwrite"):
        _, errors = complete(command_of(tiny_corpus, run_dir, "train.steps=3", flag), status=1)
        assert re.search(
            rf"run\.dir={run_dir} is being written by process {run.ranks()[0]} on host \S+ \(since", errors
        )
    assert (run_dir / "config.yaml").read_bytes() == before
    run.process.send_signal(signal.SIGINT)
    run.wait_for_text("SIGINT received: finishing this step, saving, and stopping")
    assert run.process.poll() is None
    time.sleep(0.5)
    run.process.send_signal(signal.SIGINT)
    began = time.monotonic()
    status, output = run.end()
    assert status == 1 and time.monotonic() - began < 10
    assert output.count("SIGINT received, the second signal: ending at once, without saving") == 2
    assert "ended at a second signal, SIGINT; all processes were ended" in output.splitlines()[-1]
    assert last_step(run_dir) == 0 and CheckpointDirectory(run_dir).steps() == []
