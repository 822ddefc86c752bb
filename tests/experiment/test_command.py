"""``unipool-dist experiment`` on this machine: interrupted, resumed, extended; failures; two commands at once."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.experiment.support import command, complete, write_experiment
from tests.support.running import last_step, one_thread
from unipool_dist.base.exit_statuses import RESUME
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.run.lock import RunLock

RUNS = ("plain/seed-1", "vanilla/seed-1", "plain/seed-2", "vanilla/seed-2")
LONG = 100_000
"""Steps of a run that is to be interrupted."""


def states(listed: str) -> dict[str, str]:
    """By run, what the table says of its state and loss."""
    rows = (line.split(maxsplit=2) for line in listed.splitlines())
    return {f"{row[0]}/seed-{row[1]}": row[2] for row in rows if len(row) == 3 and row[1].isdigit()}


def test_an_experiment_is_interrupted_resumed_and_extended(tmp_path: Path, tiny_corpus: Path) -> None:
    out = tmp_path / "out"
    fields = yaml.safe_load(write_experiment(tmp_path, tiny_corpus).read_text())["set"]
    # The run that is interrupted would take for ever; what is to come after it is short.
    path = write_experiment(tmp_path, tiny_corpus, set=fields | {"train.steps": LONG}, title="A test")
    assert set(states(complete(path, "--dry-run")[0]).values()) == {"not started                -     -"}
    assert not out.exists()

    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command(path, "--jobs", "2"), stdout=log, stderr=log, env=one_thread())
    try:
        until = time.monotonic() + 300
        while min(last_step(out / name) for name in RUNS[:2]) < 2:
            assert process.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(0.1)
        listed = states(complete(path, "--dry-run")[0])
        assert all(listed[name].startswith("running, step ") for name in RUNS[:2]), listed
        # Another command leaves them alone.
        said, _ = complete(path, "--only", "plain", "--seeds", "1")
        assert "plain/seed-1: another `unipool-dist experiment` is at it" in said
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == RESUME, (tmp_path / "log").read_text()
    finally:
        process.kill()
    said = (tmp_path / "log").read_text()
    assert "SIGINT: the runs in progress save and stop" in said and "the same command continues" in said
    listed = states(complete(path, "--dry-run")[0])
    assert all(listed[name].startswith("step ") and f"of {LONG}" in listed[name] for name in RUNS[:2]), listed
    assert all(listed[name].startswith("not started") for name in RUNS[2:]), listed
    saved = {name: CheckpointDirectory(out / name).steps()[-1] for name in RUNS[:2]}

    # Another length is another run, until the user has decided what is to become of those that are there.
    steps = max(saved.values()) + 4
    path = write_experiment(tmp_path, tiny_corpus, set=fields | {"train.steps": steps}, title="A test")
    _, refused = complete(path, "--jobs", "2", status=1)
    assert f"plain/seed-1: train.steps: {LONG} in the run, {steps} now" in refused
    for name in RUNS[:2]:
        text = (out / name / "config.yaml").read_text()
        (out / name / "config.yaml").write_text(text.replace(f"steps: {LONG}", f"steps: {steps}"))
    said, _ = complete(path, "--jobs", "2")
    assert all(f"{name}: started from step {saved[name]}" in said for name in RUNS[:2]), said
    assert all(states(said)[name].startswith("done") for name in RUNS), said
    assert "resumed after step" in (out / RUNS[0] / "logs" / "train.log").read_text()
    assert all(last_step(out / name) == steps for name in RUNS)
    assert yaml.safe_load((out / "experiment.yaml").read_text())["title"] == "A test"

    # Extended by a seed: what is done is not done again.
    files = [out / name / "metrics.jsonl" for name in RUNS] + [out / name / "heartbeat.json" for name in RUNS]
    before = [file.stat().st_mtime_ns for file in files]
    path = write_experiment(tmp_path, tiny_corpus, set=fields | {"train.steps": steps}, seeds=[1, 2, 3])
    said, _ = complete(path, "--only", "plain")
    assert "2 of 3 runs are done" in said and "plain/seed-3: done, validation loss" in said
    assert [file.stat().st_mtime_ns for file in files] == before
    assert yaml.safe_load((out / "experiment.yaml").read_text())["seeds"] == [1, 2, 3]
    assert states(complete(path, "--dry-run")[0])["vanilla/seed-3"].startswith("not started")


def test_a_run_that_fails_is_named_and_tried_again_while_others_finish(tmp_path: Path, tiny_corpus: Path) -> None:
    sections = {"plain": None, "wild": {"set": {"optimizer.lr": 1e30, "optimizer.clip_grad": 0.0}}}
    path = write_experiment(tmp_path, tiny_corpus, variants=sections, seeds=[1])
    said, errors = complete(path, "--jobs", "2", status=1)
    log = tmp_path / "out/wild/seed-1/logs/train.log"
    assert f"wild/seed-1 failed; its log: {log}" in errors and "plain/seed-1 failed" not in errors
    assert "wild/seed-1: failed after step" in said and "error (rank 0): the" in said, said
    assert states(said)["plain/seed-1"].startswith("done") and states(said)["wild/seed-1"].startswith("failed")
    assert "error (rank 0)" in log.read_text()
    said, _ = complete(path, status=1)
    assert "1 of 2 runs are done" in said and "wild/seed-1: started again" in said
    assert "plain/seed-1: started" not in said


@pytest.mark.real_programs
def test_runs_of_several_processes(tmp_path: Path, tiny_corpus: Path) -> None:
    path = write_experiment(tmp_path, tiny_corpus, variants={"plain": {"set": {"parallel.pp": 2}}}, seeds=[1])
    said, _ = complete(path, "--nproc", "2")
    assert states(said)["plain/seed-1"].startswith("done")
    assert yaml.safe_load((tmp_path / "out/plain/seed-1/config.yaml").read_text())["parallel"]["pp"] == 2


def test_a_run_that_something_else_trains_is_left_alone(tmp_path: Path, tiny_corpus: Path) -> None:
    path = write_experiment(tmp_path, tiny_corpus, seeds=[1], variants={"plain": None})
    with RunLock(tmp_path / "out/plain/seed-1"):
        said, _ = complete(path)
    assert "plain/seed-1: running, step 0 of 6; left alone" in said
    assert not (tmp_path / "out/plain/seed-1/config.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--nodes", "2"), 2, "--nodes: only with --slurm"),
        (("--seeds", "one"), 2, "--seeds one: give whole numbers"),
        (("--only", "missing"), 1, "--only missing: the experiment has plain, vanilla"),
        (("--nproc", "3"), 1, "variant plain: "),
        (("--slurm",), 2, "--slurm needs --time"),
        (("--slurm", "--nproc", "2"), 2, "--nproc: with --slurm"),
        (("--slurm", "--time", "soon"), 2, "--time soon"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    tmp_path: Path, tiny_corpus: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    _, errors = complete(write_experiment(tmp_path, tiny_corpus), *arguments, status=status)
    assert said in errors and not (tmp_path / "out").exists()
