"""A full disk: checkpoints that are there stay whole, the run continues while it can, and says what is the matter."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.checkpoint.support import DATA
from tests.support.callbacks import Saves
from tests.support.running import Run, last_step
from tests.support.runs import train_command
from tests.support.small_disk import small_disk
from tests.support.training import built, tiny_config
from tests.support.workers import Workers
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.manifest import content_faults, read_manifest
from unipool_dist.checkpoint.saver import Saver
from unipool_dist.checkpoint.state import TrainingState
from unipool_dist.comm.environment import Environment
from unipool_dist.engine.callback import SaveReport
from unipool_dist.observe.jsonlines import read_json_lines
from unipool_dist.run.heartbeat import read_heartbeat

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
        state = TrainingState(groups, model, train_step.optimizer)
        saver = Saver(config, groups, state, CheckpointDirectory(run_dir), lambda _: DATA, Saves(reports))
        saver.step_ends(1, closing=False)
        saver.wait()
        if groups.rank == 0:
            fill(run_dir.parent, leave=600_000)
            before = shutil.disk_usage(run_dir).free
        with mock.patch("shutil.disk_usage", return_value=usage) if unsuspecting else mock.MagicMock():
            saver.step_ends(2, closing=False)
            saver.wait()
        if groups.rank == 0:
            # While the report, and with it the error, is still there.
            assert before - 8192 <= shutil.disk_usage(run_dir).free, "what was written of it takes no room any more"
            (run_dir.parent / BALLAST).unlink()
        saver.step_ends(3, closing=True)
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


def test_a_run_goes_on_without_room_for_what_it_records_and_makes_up_for_it(
    disk: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    """metrics.jsonl, expert_usage.jsonl and TensorBoard's file; nothing is cut short and no step is missing."""
    run_dir = disk / "run"
    settings = ("train.steps=100000", "checkpoint.interval=0", "log.interval=1", "train.eval_sequences=0")
    run = Run(train_command(tiny_corpus, run_dir, 1, *settings), run_dir, tmp_path / "log")
    try:
        run.wait_for_step(2)
        fill(disk, leave=0)
        run.wait_for_text("metrics.jsonl cannot be written: No space left on device; the run continues")
        run.wait_for_text("expert_usage.jsonl cannot be written")
        beat = read_heartbeat(run_dir)
        assert beat is not None
        while (now := read_heartbeat(run_dir)) is None or now.step < beat.step + 20:
            assert run.process.poll() is None, run.output()
            time.sleep(0.05)
        (disk / BALLAST).unlink()
        run.wait_for_step(now.step + 1)
        run.process.send_signal(signal.SIGTERM)
        status, output = run.end()
    finally:
        run.kill()
    assert status == 75 and "Traceback" not in output, output
    files = ("metrics.jsonl", "expert_usage.jsonl", "tfevents")
    warnings = [line for line in output.splitlines() if line.startswith("warning: ")]
    for name in files:
        assert sum(name in line for line in warnings) <= 1, "each is told once"
        assert sum(name in line for line in warnings) == sum(
            name in line and line.endswith("can be written again") for line in output.splitlines()
        )
    steps = _steps(run_dir)
    assert steps == list(range(1, steps[-1] + 1)) and steps[-1] > now.step
    assert [record["step"] for record in read_json_lines(run_dir / "expert_usage.jsonl")] == steps
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == steps


def test_a_run_whose_directory_is_taken_away_makes_it_nowhere_anew(tiny_corpus: Path, tmp_path: Path) -> None:
    """Renamed for a while: it goes on, and so do its files. Deleted: it ends with one line that says so."""
    run_dir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    settings = ("train.steps=100000", "checkpoint.interval=5", "log.interval=1", "train.eval_sequences=0")
    run = Run(train_command(tiny_corpus, run_dir, 1, *settings), run_dir, tmp_path / "log")
    try:
        run.wait_for_step(2)
        run_dir.rename(elsewhere)
        run.wait_for_text(f"{run_dir} is gone: it was deleted, or has another name now")
        assert not run_dir.exists() and run.process.poll() is None
        seen = last_step(elsewhere)
        elsewhere.rename(run_dir)
        run.wait_for_step(seen + 12)
        assert CheckpointDirectory(run_dir).steps(), "saved again"
        shutil.rmtree(run_dir)
        run.wait_for_text("metrics.jsonl cannot be written: it was deleted")
        run.process.send_signal(signal.SIGTERM)
        status, output = run.end()
    finally:
        run.kill()
    assert status == 1 and "Traceback" not in output, output
    assert f"error (rank 0): the run ends without its last state saved: {run_dir} is gone" in output
    assert not run_dir.exists() and not elsewhere.exists()


def _steps(run_dir: Path) -> list[int]:
    return [record["step"] for record in read_json_lines(run_dir / "metrics.jsonl") if "loss" in record]
