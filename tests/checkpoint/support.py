"""Saving and loading outside a run. Runs in worker processes."""

from __future__ import annotations

from pathlib import Path

from tests.support.callbacks import Saves
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.progress import DataIdentity
from unipool_dist.checkpoint.resume import find_checkpoint, load_checkpoint
from unipool_dist.checkpoint.saver import Saver
from unipool_dist.checkpoint.state import TrainingState
from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.config import Plan
from unipool_dist.engine.callback import SaveReport
from unipool_dist.engine.step import TrainStep
from unipool_dist.model.assembly import PooledModel

DATA = DataIdentity(tokenizer_hash="t", content_hash="c", segments=(100,))


def save_step(
    config: Plan, groups: ParallelGroups, model: PooledModel, train_step: TrainStep, run_dir: Path, step: int
) -> SaveReport:
    """Save the state as that of ``step``; raises if that fails."""
    reports: list[SaveReport] = []
    state = TrainingState(groups, model, train_step.optimizer)
    Saver(config, groups, state, CheckpointDirectory(run_dir), lambda _: DATA, Saves(reports)).step_ends(
        step, closing=True
    )
    return reports[0]


def load_step(
    groups: ParallelGroups, model: PooledModel, train_step: TrainStep, run_dir: Path, step: int | None
) -> int:
    """Load the checkpoint of ``step``, or the newest whole one; return its step."""
    found = find_checkpoint(CheckpointDirectory(run_dir), groups.storage, from_step=step, verify="hash")
    assert found is not None
    load_checkpoint(found, TrainingState(groups, model, train_step.optimizer), groups.storage)
    return found.step
