"""Through the command line: a run that was stopped goes on as if it had not been, and only if it is the same run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.checkpoint.cli_runs import columns, command_of, complete, files
from tests.support.running import last_step
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.cli import cli
from unipool_dist.errors import ConfigError
from unipool_dist.run.beginning import check_run_dir
from unipool_dist.run.heartbeat import HeartbeatWriter

STEPS = 12
STUCK = "2026-01-02T03-04-05"
BASE = (f"train.steps={STEPS}", "optimizer.decay=constant", "optimizer.momentum=0.5", "checkpoint.interval=2")
KEEP = ("checkpoint.keep_last=1", "checkpoint.keep_every=4")


@pytest.fixture(scope="module")
def base(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, begun with --resume where an earlier start got stuck before its first checkpoint; not to be
    changed."""
    run_dir = tmp_path_factory.mktemp("base") / "run"
    (run_dir / "watchdog" / STUCK).mkdir(parents=True)
    HeartbeatWriter(run_dir, steps=STEPS, resumed_from=0).write(1)
    said, warned = complete(command_of(tiny_corpus, run_dir, *BASE, *KEEP, "--resume"))
    (run_dir.parent / "said").write_text(said)
    (run_dir.parent / "warned").write_text(warned)
    return run_dir


@pytest.fixture
def run_dir(base: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(base, tmp_path / "run")
    return tmp_path / "run"


def test_to_resume_where_nothing_is_begins_and_what_the_watchdog_found_stays(base: Path) -> None:
    assert (
        "1 steps that had been done before there was a checkpoint are lost and repeated"
        in (base.parent / "said").read_text()
    )
    assert f"no checkpoint in {base}: starting at step 1\n" in (base.parent / "said").read_text()
    assert (base / "watchdog" / STUCK).is_dir()


def test_a_setting_without_effect_is_warned_of_once(base: Path) -> None:
    warned = (base.parent / "warned").read_text()
    assert warned.count("warning: optimizer.momentum=0.5 has no effect, as optimizer.name=adamw\n") == 1
    assert warned.count("has no effect") == 1


def test_old_checkpoints_go(base: Path) -> None:
    assert last_step(base) == STEPS
    assert {path.name for path in (base / "checkpoints").iterdir()} == {
        "step-00000004",
        "step-00000008",
        "step-00000012",
    }


def test_a_run_made_longer_or_taken_back_sees_the_same_tokens(base: Path, run_dir: Path, tiny_corpus: Path) -> None:
    longer = command_of(tiny_corpus, run_dir, *BASE, *KEEP, "train.steps=16")
    said, _ = complete([*longer, "--resume"])
    assert f"resumed after step 12 of 16 from {run_dir / 'checkpoints' / 'step-00000012'}" in said
    first = columns(run_dir)
    for column, values in columns(base).items():
        assert first[column][:STEPS] == values, "what was recorded stays"
    before = {step: files(CheckpointDirectory(run_dir).folder(step)) for step in (4, 8, 12, 16)}

    said, _ = complete([*longer, "--from", "4"])
    assert "resumed after step 4 of 16" in said
    aside = run_dir / "checkpoints" / "aside"
    for step in (8, 12, 16):
        assert f"moved aside: {aside / f'step-{step:08d}.superseded'}" in said
        assert files(aside / f"step-{step:08d}.superseded") == before[step], "unchanged"
    assert CheckpointDirectory(run_dir).steps() == [4, 8, 12, 16]
    assert files(CheckpointDirectory(run_dir).folder(4)) == before[4]
    again = columns(run_dir)
    for column, values in first.items():
        np.testing.assert_allclose(again[column], values, rtol=1e-6, err_msg=column)


def test_checkpoints_alone_are_a_run_too(run_dir: Path) -> None:
    """As a killed `reshard` leaves them; a plain `train` would delete them."""
    (run_dir / "config.yaml").unlink()
    before = files(run_dir)
    with pytest.raises(ConfigError, match="already holds a run; pass --resume to continue it"):
        check_run_dir(run_dir, overwrite=False, resume=False)
    check_run_dir(run_dir, overwrite=True, resume=False)
    check_run_dir(run_dir, overwrite=False, resume=True)
    assert files(run_dir) == before


def test_a_finished_run_says_so_and_stays_as_it_is(run_dir: Path, tiny_corpus: Path) -> None:
    before = files(run_dir)
    said, _ = complete(command_of(tiny_corpus, run_dir, *BASE, "--resume"))
    assert said == f"run.dir={run_dir} is finished: its checkpoint is of step 12\n"
    assert files(run_dir) == before


def test_another_run_is_refused_and_nothing_is_changed(run_dir: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "other corpus"
    (tmp_path / "text.txt").write_text("\n\n".join(f"{n} is not {n + 1}, " * 30 for n in range(200)))
    prepare = [sys.executable, "-m", "unipool_dist", "data", "prepare", str(other), "--vocab-size", "280"]
    subprocess.run([*prepare, f"--source=numbers={tmp_path / 'text.txt'}"], check=True, capture_output=True)
    shutil.copytree(CheckpointDirectory(run_dir).folder(4), CheckpointDirectory(run_dir).path / "step-00000016")
    before = files(run_dir)
    changes = ("model.hidden_size=64", "train.seed=7", f"data.path={other}", "optimizer.lr=0.1", "train.steps=30")
    said, errors = complete(command_of(tiny_corpus, run_dir, *BASE, *changes, "--resume"), status=1)
    assert "error (rank 0): this run cannot be resumed from the checkpoint, because these differ:" in errors
    assert "  model.hidden_size: 32 in the checkpoint, 64 now" in errors
    assert "  train.seed: 1234 in the checkpoint, 7 now" in errors
    assert f"tokenizer of data.path={other}: another one than the checkpoint's" in errors
    assert "optimizer.lr" not in errors and said == "", "what may be changed is no reason"
    assert files(run_dir) == before


def test_a_step_without_a_checkpoint_is_refused(run_dir: Path, tiny_corpus: Path) -> None:
    before = files(run_dir)
    _, errors = complete(command_of(tiny_corpus, run_dir, *BASE, "--from", "6"), status=1)
    assert f"error (rank 0): {run_dir / 'checkpoints'} has no checkpoint of step 6; there are: 4, 8, 12\n" in errors
    assert files(run_dir) == before


@pytest.mark.parametrize("flags", [["--resume"], ["--from", "4"]])
def test_to_overwrite_and_to_resume_is_wrong_usage(flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("{}\n")
    result = CliRunner().invoke(cli, ["train", str(tmp_path / "empty.yaml"), "--overwrite", *flags])
    assert result.exit_code == 2
    assert "--overwrite deletes the checkpoints that --resume and --from need" in result.output
