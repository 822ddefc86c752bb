"""A preparation as jobs, with SLURM's commands replaced by scripts that write down how they were called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.runs import write_sources
from tests.support.trees import snapshot
from unipool_dist.data.corpus import Corpus
from unipool_dist.jobs.folder import JobFolder


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the arguments of every ``sbatch``, which answers with 101, 102, ..."""
    folder = tmp_path / "slurm-bin"
    folder.mkdir()
    calls = folder / "called"
    calls.touch()
    (folder / "sbatch").write_text(f'#!/bin/sh\necho "$@" >>{calls}\nexpr 100 + $(wc -l <{calls})\n')
    (folder / "scontrol").write_text('#!/bin/sh\necho "slurm_load_jobs error: Invalid job id specified" >&2\nexit 1\n')
    for name in ("sbatch", "scontrol"):
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return calls


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Those of a small preparation."""
    sources = [f"--source={name}={path}" for name, path in write_sources(tmp_path).items()]
    return ["data", "prepare", str(tmp_path / "out"), *sources, "--vocab-size=320", "--workers=2"]


@pytest.mark.program
def test_two_arrays_and_a_last_job_make_the_corpus(
    unipool_dist: Command, tmp_path: Path, called: Path, arguments: list[str]
) -> None:
    ended = unipool_dist("submit", "--time=60", "--shards=2", "--", *arguments)
    assert ended.status == 0 and "jobs 101, 102, 103 submitted" in ended.out, ended.err
    folder = JobFolder(tmp_path / "out.preparation")
    script = str(folder.files.job_script)
    log = f"--output={folder.files.logs}/%A_%a.log"
    assert called.read_text().splitlines() == [
        f"--parsable --array=0-1 {log} {script}",
        f"--parsable --array=0-1 {log} --dependency=afterany:101 {script}",
        f"--parsable --dependency=afterany:102 {script}",
    ]
    options = folder.files.job_script.read_text()
    for option in ("--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=2", "--time=60", "--requeue"):
        assert f"#SBATCH {option}\n" in options
    assert "--signal" not in options and "--gpus" not in options
    said = [_run(folder, {"SLURM_ARRAY_TASK_ID": str(i)}) for i in (0, 1, 0, 1)]
    assert "shard 0/2 is read" in said[0] and "all shards are done" in said[3]
    assert "prepared\n" in _run(folder, {})
    assert "tokenize: " in said[1] and "B/s" in said[1], "a log has the progress"
    assert unipool_dist(*arguments[:2], tmp_path / "alone", *arguments[3:-1]).status == 0
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "alone")
    Corpus.open(tmp_path / "out", verify="hash")


def _run(folder: JobFolder, variables: dict[str, str]) -> str:
    script = ["bash", str(folder.files.job_script)]
    done = subprocess.run(script, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_without_shards_there_is_one_job_and_again_another(
    unipool_dist: Command, tmp_path: Path, called: Path, arguments: list[str]
) -> None:
    for job in ("101", "102"):
        ended = unipool_dist("submit", "--time=60", "--name=mine", "--", *arguments)
        assert ended.status == 0 and f"job {job} submitted" in ended.out, ended.err
    script = tmp_path / "out.preparation/job/job.sbatch"
    assert called.read_text().splitlines() == [f"--parsable {script}"] * 2
    assert "#SBATCH --job-name=mine\n" in script.read_text()


def test_a_dry_run_prints_the_script_and_leaves_no_trace(
    unipool_dist: Command, tmp_path: Path, called: Path, arguments: list[str]
) -> None:
    before = snapshot(tmp_path)
    ended = unipool_dist("submit", "--time=60", "--dry-run", "--", *arguments)
    assert ended.status == 0 and ended.out.startswith("#!/usr/bin/env bash") and snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        ([], [], "missing: --time"),
        (["--time=60", "--nodes=2"], [], "--nodes: not for `data prepare`"),
        (["--time=60"], ["--shard=0/2"], "give `submit` the number of --shards"),
        (["--time=60"], ["--no-such-option"], "--no-such-option"),
        (["--time=soon"], [], "--time soon"),
    ],
)
def test_what_cannot_be_submitted_is_refused_before_anything_is_written(
    options: list[str],
    more: list[str],
    message: str,
    unipool_dist: Command,
    tmp_path: Path,
    called: Path,
    arguments: list[str],
) -> None:
    ended = unipool_dist("submit", *options, "--", *arguments, *more)
    assert ended.status == 2 and message in ended.err, ended.err
    assert not called.read_text() and not (tmp_path / "out.preparation").exists()


def test_shards_of_a_run_are_refused(unipool_dist: Command) -> None:
    ended = unipool_dist("submit", "c.yaml", "--nodes=1", "--gpus-per-node=0", "--time=60", "--shards=2")
    assert ended.status == 2 and "--shards is for `-- data prepare OUT ...`" in ended.err


def test_somebody_elses_folder_stays(unipool_dist: Command, tmp_path: Path, called: Path, arguments: list[str]) -> None:
    mine = tmp_path / "out.preparation/job"
    mine.mkdir(parents=True)
    (mine / "thesis.tex").write_text("years of work")
    ended = unipool_dist("submit", "--time=60", "--", *arguments)
    assert ended.status == 1 and "move it away" in ended.err and not called.read_text()
    assert (mine / "thesis.tex").read_text() == "years of work"
