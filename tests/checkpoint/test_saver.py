"""Saving beside training: a checkpoint is of its step, one save waits for another, a failure is told."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch.distributed as dist

from tests.checkpoint.known_state import differences, fill
from tests.checkpoint.support import DATA, load_step
from tests.support.callbacks import Saves
from tests.support.training import batches_of, built, tiny_config
from tests.support.workers import Workers
from unipool_dist.checkpoint import saver as saver_module
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.saver import Saver
from unipool_dist.checkpoint.snapshot import Snapshot
from unipool_dist.checkpoint.state import TrainingState
from unipool_dist.comm.environment import Environment
from unipool_dist.engine.callback import SaveReport
from unipool_dist.errors import CheckpointError


@dataclass
class Seen:
    reports: list[SaveReport]
    steps: list[int]
    wrong: list[str]
    waited: bool = False
    error: str = ""


def _beside_training(environment: Environment, folder: Path) -> Seen:
    """Save known values, and change all of them before anything of it can be written."""
    config = tiny_config("parallel.pp=2", world_size=environment.world_size)
    with built(config, environment) as (groups, model, train_step), _Gate() as gate:
        fill(groups, model, train_step)
        seen = Seen([], [], [])
        state = TrainingState(groups, model, train_step.optimizer)
        directory = CheckpointDirectory(folder)
        saver = Saver(config, groups, state, directory, lambda _: DATA, Saves(seen.reports))
        saver.save(1)
        train_step.run(0, batches_of(config, groups, 0))
        assert saver.busy and not seen.reports, "training did not wait"
        threading.Timer(0.3, gate.open).start()
        saver.save(2)  # waits for the first
        seen.waited = [report.step for report in seen.reports] == [1]
        saver.wait()
        load_step(groups, model, train_step, folder, 1)
        seen.wrong = differences(groups, model, train_step)
        dist.barrier()
        seen.steps = directory.steps()
        return seen


class _Gate:
    """Holds every save back until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._write: Any = saver_module.write_checkpoint

    def open(self) -> None:
        self._open.set()

    def __enter__(self) -> _Gate:
        def held_back(*args: Any) -> int:
            assert self._open.wait(30)
            return self._write(*args)

        saver_module.write_checkpoint = held_back  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        saver_module.write_checkpoint = self._write


def test_a_checkpoint_is_of_its_step_though_training_went_on(workers: Workers, tmp_path: Path) -> None:
    for seen in workers.run(_beside_training, 2, tmp_path):
        assert seen.wrong == []
        assert seen.waited, "the second save waited for the first"
        first, second = seen.reports
        assert second.stall_s > 0.25, "and its stall says so"
        assert first.stall_s < first.write_s - 0.25, "training did not wait for the gate"
        assert seen.steps == [1, 2]
        assert first.num_bytes > 0 and first.error is None


def _slowly_copied(environment: Environment, folder: Path) -> Seen:
    """Save known values, and begin the next step before any of them is copied."""
    config = tiny_config("parallel.pp=2", world_size=environment.world_size)
    copy_now = threading.Event()

    class SlowSnapshot(Snapshot):
        def finish(self) -> None:
            assert copy_now.wait(30)
            super().finish()

    with (
        built(config, environment) as (groups, model, train_step),
        mock.patch.object(saver_module, "Snapshot", SlowSnapshot),
    ):
        fill(groups, model, train_step)
        seen = Seen([], [], [])
        state = TrainingState(groups, model, train_step.optimizer)
        saver = Saver(config, groups, state, CheckpointDirectory(folder), lambda _: DATA, Saves(seen.reports))
        saver.save(1)
        threading.Timer(1.0, copy_now.set).start()
        train_step.run(0, batches_of(config, groups, 0))
        seen.waited = copy_now.is_set()
        saver.wait()
        load_step(groups, model, train_step, folder, 1)
        seen.wrong = differences(groups, model, train_step)
        return seen


def test_weights_do_not_change_before_they_are_copied(workers: Workers, tmp_path: Path) -> None:
    for seen in workers.run(_slowly_copied, 2, tmp_path):
        assert seen.waited
        assert seen.wrong == []
        assert 0.1 < seen.reports[0].stall_s < 1.1, "the wait counts as stall, the passes before it do not"


def _failing(environment: Environment, folder: Path, closing: bool) -> Seen:
    """Save step 1; then a file is where the folder of the checkpoint of step 2 is to be written."""
    config = tiny_config("parallel.pp=2", "checkpoint.interval=1", world_size=environment.world_size)
    with built(config, environment) as (groups, model, train_step):
        seen = Seen([], [], [])
        state = TrainingState(groups, model, train_step.optimizer)
        directory = CheckpointDirectory(folder)
        saver = Saver(config, groups, state, directory, lambda _: DATA, Saves(seen.reports))
        saver.step_ends(1, closing=False)
        saver.wait()
        obstacle = directory.draft(2)
        if groups.rank == 0:
            obstacle.write_text("in the way")
        try:
            saver.step_ends(2, closing=closing)
            saver.wait()
        except CheckpointError as error:
            seen.error = str(error)
        if groups.rank == 0:
            obstacle.unlink(missing_ok=True)
        saver.step_ends(3, closing=True)
        dist.barrier()
        seen.steps = directory.steps()
        return seen


def _disconnected(environment: Environment, folder: Path) -> str:
    """Save, with messages of the save that do not arrive."""
    config = tiny_config("parallel.pp=2", world_size=environment.world_size)

    def lost(*args: Any) -> int:
        raise RuntimeError("Connection closed by peer")

    with (
        built(config, environment) as (groups, model, train_step),
        mock.patch.object(saver_module, "write_checkpoint", lost),
    ):
        state = TrainingState(groups, model, train_step.optimizer)
        seen: list[SaveReport] = []
        saver = Saver(config, groups, state, CheckpointDirectory(folder), lambda _: DATA, Saves(seen))
        saver.save(1)
        try:
            saver.wait()
        except RuntimeError as error:
            return f"{error}, reported: {seen[0].error}"
        return "went on"


def test_ranks_that_lost_each_other_do_not_train_on_without_checkpoints(workers: Workers, tmp_path: Path) -> None:
    """Every later save would fail too, with no more than a warning."""
    for outcome in workers.run(_disconnected, 2, tmp_path):
        assert outcome == "Connection closed by peer, reported: Connection closed by peer"


@pytest.mark.parametrize("closing", [False, True])
def test_a_save_that_fails_is_told_to_all_ranks_and_the_next_one_is_tried(
    workers: Workers, tmp_path: Path, closing: bool
) -> None:
    for seen in workers.run(_failing, 2, tmp_path, closing):
        assert [report.step for report in seen.reports] == [1, 2, 3]
        assert [report.error is None for report in seen.reports] == [True, False, True]
        assert seen.steps == [1, 3]
        assert ("without its last state saved" in seen.error) == closing
