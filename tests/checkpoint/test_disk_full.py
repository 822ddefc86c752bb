"""A full disk: the checkpoints that are there stay whole, the run goes on while it can, and says what is the matter."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from tests.checkpoint.support import DATA
from tests.support.runs import train_command
from tests.support.small_disk import small_disk
from tests.support.training import built, tiny_config
from tests.support.workers import Workers
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.manifest import content_faults, read_manifest
from unipool_dist.checkpoint.saver import Saver, SaveReport
from unipool_dist.checkpoint.state import RunState
from unipool_dist.observe.jsonlines import read_json_lines
from unipool_dist.topology.environment import Environment

NO_ROOM = "No space left on device"
BALLAST = "ballast"


def is_whole(directory: CheckpointDirectory, step: int) -> bool:
    folder = directory.folder(step)
    return not content_faults(folder, read_manifest(folder).files)


def fill(disk: Path, *, leave: int) -> None:
    """Take room away until ``leave`` bytes are left, up to a page."""
    with (disk / BALLAST).open("wb", buffering=0) as ballast:
        for _ in range((shutil.disk_usage(disk).free - leave) // 4096):
            if ballast.write(b"0" * 4096) < 4096:
                break


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk(6_000_000) as folder:
        yield folder


def _save_on_a_full_disk(environment: Environment, run_dir: Path, unsuspecting: bool) -> list[SaveReport]:
    """Three saves; there is room for the first, not for the second, and room again for the third."""
    config = tiny_config("parallel.pp=2", "checkpoint.keep_last=0", "checkpoint.interval=1", world_size=2)
    usage = SimpleNamespace(total=1 << 50, used=0, free=1 << 50)
    reports: list[SaveReport] = []
    with built(config, environment) as (groups, model, train_step):
        state = RunState(groups, model, train_step.optimizer)
        saver = Saver(config, groups, state, CheckpointDirectory(run_dir), DATA, reports.append)
        saver.after_step(1, closing=False)
        saver.wait()
        if groups.rank == 0:
            fill(run_dir.parent, leave=600_000)
            before = shutil.disk_usage(run_dir).free
        with mock.patch("shutil.disk_usage", return_value=usage) if unsuspecting else mock.MagicMock():
            saver.after_step(2, closing=False)
            saver.wait()
        if groups.rank == 0:
            # While the report, and with it the error, is still there.
            assert before - 8192 <= shutil.disk_usage(run_dir).free, "what was written of it takes no room any more"
            (run_dir.parent / BALLAST).unlink()
        saver.after_step(3, closing=True)
    return reports


@pytest.mark.parametrize("unsuspecting", [False, True])
def test_a_save_that_finds_no_room_leaves_nothing_and_loses_nothing(
    workers: Workers, disk: Path, unsuspecting: bool
) -> None:
    """Whether it sees that before it begins, or, as with a quota or another writer, only when a write fails."""
    directory = CheckpointDirectory(disk / "run")
    for rank, (first, second, third) in enumerate(
        workers.run(_save_on_a_full_disk, 2, directory.path.parent, unsuspecting)
    ):
        assert (first.step, first.error, third.step, third.error) == (1, None, 3, None), f"rank {rank}"
        assert second.step == 2 and second.error is not None
        assert (NO_ROOM if unsuspecting else "0.6 MB left and a checkpoint needs") in str(second.error)
        assert "make room" in str(second.error)
    assert {path.name for path in directory.path.iterdir()} == {"step-00000001", "step-00000003"}
    assert is_whole(directory, 1) and is_whole(directory, 3)


def test_a_run_goes_on_without_room_for_checkpoints_and_can_be_resumed_once_there_is(
    disk: Path, tiny_corpus: Path
) -> None:
    """Room for the checkpoint of step 4, not for those of steps 8 and 12, the last."""
    (disk / BALLAST).write_bytes(b"0" * 2_800_000)
    settings = ("train.steps=12", "checkpoint.interval=4", "checkpoint.keep_last=0", "log.interval=1", "parallel.pp=2")
    command = train_command(tiny_corpus, disk / "run", 2, *settings)
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    output = done.stdout + done.stderr
    directory = CheckpointDirectory(disk / "run")
    assert done.returncode == 1, output
    assert "Traceback" not in output
    for step in (8, 12):
        assert f"warning: no checkpoint of step {step}: {directory.path} has" in done.stderr
    assert "the run ends without its last state saved: " in done.stderr and "make room" in done.stderr
    assert {path.name for path in directory.path.iterdir()} == {"step-00000004"}
    assert is_whole(directory, 4)
    assert _steps(disk / "run") == list(range(1, 13)), "it trained to the end"

    (disk / BALLAST).unlink()
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed after step 4 of 12" in done.stdout
    assert directory.steps() == [4, 8, 12] and all(is_whole(directory, step) for step in (4, 8, 12))
    assert _steps(disk / "run") == list(range(1, 13))


def test_without_room_for_metrics_the_run_ends_with_an_error_that_names_the_file(disk: Path, tiny_corpus: Path) -> None:
    settings = ("train.steps=100000", "checkpoint.interval=2", "checkpoint.keep_last=1", "log.interval=1")
    command = train_command(tiny_corpus, disk / "run", 1, *settings, "train.eval_sequences=0")
    directory = CheckpointDirectory(disk / "run")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            until = time.monotonic() + 60
            while not directory.steps() and run.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            fill(disk, leave=0)
            output, errors = run.communicate(timeout=240)
        finally:
            run.kill()
    assert run.returncode == 1, output + errors
    # A thread of TensorBoard may show the same error, in the midst of which the line is, with a traceback of its own.
    error = errors.partition("error (rank 0): ")[2]
    files = ("metrics.jsonl", "expert_usage.jsonl", "tensorboard")
    assert any(error.startswith(f"{disk / 'run' / name} cannot be written: {NO_ROOM}; make room") for name in files)
    assert "Traceback" not in errors.partition("Exception in thread")[0], "but for that thread's"
    assert directory.steps() and all(is_whole(directory, step) for step in directory.steps())
    assert read_json_lines(disk / "run" / "metrics.jsonl"), "a line that was cut short is not in the way"


def _steps(run_dir: Path) -> list[int]:
    return [record["step"] for record in read_json_lines(run_dir / "metrics.jsonl") if "loss" in record]
