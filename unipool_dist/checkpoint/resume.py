"""Finding the checkpoint to go on from, and loading it, whatever layout wrote it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.manifest import (
    MANIFEST_FILE,
    content_faults,
    deal,
    join_faults,
    read_manifest,
    size_faults,
)
from unipool_dist.checkpoint.planners import PieceLoadPlanner
from unipool_dist.checkpoint.progress import Progress, read_config, read_progress
from unipool_dist.checkpoint.randomness import restore_random_state
from unipool_dist.checkpoint.state import RunState
from unipool_dist.checkpoint.storage import SafeReader
from unipool_dist.config import Config
from unipool_dist.errors import CheckpointError
from unipool_dist.topology.agreement import failing_together

Verify = Literal["size", "hash"]


@dataclass(frozen=True)
class Found:
    """A checkpoint that has been verified."""

    step: int
    folder: Path
    progress: Progress
    config: Config
    """Resolved configuration of the run that wrote it."""
    damaged: dict[int, str] = field(default_factory=dict)
    """Newer checkpoints that were passed over, with what is wrong with them."""


def find_checkpoint(
    directory: CheckpointDirectory, group: dist.ProcessGroup, *, from_step: int | None, verify: Verify
) -> Found | None:
    """The newest checkpoint that is whole, or the one of ``from_step``; ``None`` if there is none at all.

    Every file is read and compared with the manifest (with ``verify="size"`` only its size is), each by one rank.

    Collectives, over ``group`` (gloo, all ranks): broadcast_object_list of what rank 0 sees; for each checkpoint
    looked at, one all_gather_object.

    Raises:
        CheckpointError: on every rank: ``from_step`` does not exist or is damaged, or all checkpoints are damaged.
    """
    listing: list[Any] = [directory.steps() if group.rank() == 0 else None]
    dist.broadcast_object_list(listing, group_src=0, group=group)
    steps: list[int] = listing[0]
    if from_step is not None and from_step not in steps:
        raise CheckpointError(
            f"{directory.path} has no checkpoint of step {from_step}; there are: {', '.join(map(str, steps)) or 'none'}"
        )
    damaged: dict[int, str] = {}
    for step in [from_step] if from_step is not None else reversed(steps):
        fault = _fault(directory.folder(step), group, verify)
        if fault is None:
            folder = directory.folder(step)
            return Found(step, folder, read_progress(folder), read_config(folder), damaged)
        if from_step is not None:
            raise CheckpointError(f"the checkpoint of step {step} is damaged: {fault}; resume from another step")
        damaged[step] = fault
    if damaged:
        faults = "\n  ".join(f"step {step}: {fault}" for step, fault in damaged.items())
        raise CheckpointError(
            f"{directory.path} has no checkpoint that is whole:\n  {faults}\nRestore the files from a copy, or begin "
            f"the run anew with --overwrite, which deletes them"
        )
    return None


def load_checkpoint(found: Found, state: RunState, group: dist.ProcessGroup) -> None:
    """Put a checkpoint into this rank's optimizer, parameters, schedule, balance statistics and random generators.

    Collectives: agreement on the index over ``group`` and those of torch.distributed.checkpoint.load, then all-gathers
    over the data-parallel and expert-data-parallel groups.

    Raises:
        CheckpointError: on every rank: the checkpoint lacks a tensor, has another shape of it, or holds what is none.
    """
    progress = found.progress
    held = state.held(masters_only=not progress.optimizer_states)
    planner = PieceLoadPlanner([(item.piece, item.values) for item in held])
    with failing_together(f"reading the index of {found.folder}", group):
        reader = SafeReader(found.folder)
    try:
        dcp.load({}, storage_reader=reader, planner=planner, process_group=group)
    except CheckpointException as error:
        rank, (cause, _) = next(iter(sorted(error.failures.items())))
        raise CheckpointError(f"{found.folder} cannot be loaded: rank {rank}: {cause}") from None
    state.optimizer.finish_loading(progress.schedule_steps)
    if progress.optimizer_states:
        state.small.apply()
    if progress.random is not None:
        restore_random_state(progress.random)


def _fault(folder: Path, group: dist.ProcessGroup, verify: Verify) -> str | None:
    """What is wrong with the checkpoint in ``folder``, the same answer on every rank."""
    faults: list[str] = []
    try:
        manifest = read_manifest(folder)
        if folder.name == f"step-{manifest.step:08d}":
            faults = size_faults(folder, manifest)
        else:  # said first: if files were exchanged, the others only fail to match it
            faults = [f"{folder / MANIFEST_FILE} is that of step {manifest.step}"]
        if not faults and verify == "hash":
            faults = content_faults(folder, deal(manifest.files, group.size())[group.rank()])
    except (CheckpointError, OSError) as error:
        faults = [str(error)]
    answers: list[Any] = [None] * group.size()
    dist.all_gather_object(answers, faults, group)
    every = dict.fromkeys(fault for answer in answers for fault in answer)
    return join_faults(every) if every else None
