"""Find the checkpoint to resume from, and load it, whatever layout wrote it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata

from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.finding import examine, newest_whole, steps_to_try
from unipool_dist.checkpoint.index import read_index
from unipool_dist.checkpoint.manifest import (
    SMALL_FILES,
    FileRecord,
    Manifest,
    content_faults,
    deal,
    join_faults,
)
from unipool_dist.checkpoint.planners import PieceLoadPlanner
from unipool_dist.checkpoint.progress import Progress, read_config, read_progress
from unipool_dist.checkpoint.randomness import restore_random_state
from unipool_dist.checkpoint.state import Held, TrainingState
from unipool_dist.checkpoint.storage import SafeReader
from unipool_dist.comm.agreement import failing_together
from unipool_dist.config import Config
from unipool_dist.errors import CheckpointError

Verify = Literal["size", "hash"]


class DamagedError(CheckpointError):
    """A checkpoint that was to be loaded has turned out to be damaged."""

    def __init__(self, step: int, fault: str) -> None:
        super().__init__(f"the checkpoint of step {step} is damaged: {fault}; resume from another step")
        self.step, self.fault = step, fault


class Verification:
    """A thread that reads this rank's share of a checkpoint's files and compares them with the manifest.

    It runs while the rank does other work, as reading waits for the disk most of the time.
    """

    def __init__(self, step: int, folder: Path, files: Mapping[str, FileRecord], group: dist.ProcessGroup) -> None:
        self._step, self._group = step, group
        self._faults: list[str] = []
        self._read_bytes = dict.fromkeys(files, 0)
        self._advanced = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, args=(folder, files), daemon=True)
        self._thread.start()

    def confirm(self) -> None:
        """Wait until all files have been read. Collectives: one all_gather_object over the group.

        Raises:
            DamagedError: on every rank, if any of the files does not match the manifest.
        """
        self._thread.join()
        fault = _agree(self._faults, self._group)
        if fault is not None:
            raise DamagedError(self._step, fault)

    def wait_for(self, name: str, num_bytes: int) -> None:
        """Wait until the thread has read so much of a file, or, for files of other ranks, has ended.

        What is read behind the thread comes from the page cache. A second reader of the disk would slow both down.
        """
        with self._advanced:
            self._advanced.wait_for(lambda: self._ended or self._read_bytes.get(name, 0) >= num_bytes)

    def _read(self, folder: Path, files: Mapping[str, FileRecord]) -> None:
        try:
            for name, record in files.items():
                self._faults += content_faults(folder, {name: record}, partial(self._advance, name))
        except Exception as error:  # must not be taken for a file that is whole
            self._faults = [f"{folder} cannot be verified: {type(error).__name__}: {error}"]
        finally:
            with self._advanced:
                self._ended = True
                self._advanced.notify_all()

    def _advance(self, name: str, num_bytes: int) -> None:
        with self._advanced:
            self._read_bytes[name] += num_bytes
            self._advanced.notify_all()


@dataclass(frozen=True)
class Found:
    """A checkpoint whose files are all there; ``verification`` checks their content against the manifest."""

    step: int
    folder: Path
    progress: Progress
    config: Config
    """Resolved configuration of the run that wrote it."""
    files: Mapping[str, FileRecord]
    """Files of the manifest: only these may be opened."""
    verification: Verification
    damaged: Mapping[int, str] = field(default_factory=dict)
    """Newer checkpoints that were passed over, with what is wrong with them."""

    @cached_property
    def index(self) -> Metadata:
        """The index of its tensors, read at first use."""
        return read_index(self.folder, self.files)


def find_checkpoint(
    directory: CheckpointDirectory,
    group: dist.ProcessGroup,
    *,
    from_step: int | None,
    verify: Verify,
    damaged: Mapping[int, str] | None = None,
) -> Found | None:
    """Find the newest checkpoint that seems whole, or the one of ``from_step``; ``None`` if there is none at all.

    Sizes of all files and the content of the small ones have been verified when this returns. With ``verify="hash"``
    every other file is being read and compared with the manifest, each by one rank.

    Args:
        damaged: checkpoints to pass over, by step, with what is wrong with them.

    Collectives, over ``group`` (gloo, all ranks): broadcast_object_list of what rank 0 sees; for each checkpoint
    examined, one all_gather_object.

    Raises:
        CheckpointError: on every rank: ``from_step`` does not exist or is damaged, or all checkpoints are damaged.
    """
    listing: list[Any] = [directory.steps() if group.rank() == 0 else None]
    dist.broadcast_object_list(listing, group_src=0, group=group)
    skipped = dict(damaged or {}) if from_step is None else {}
    candidates = [step for step in steps_to_try(directory, listing[0], from_step) if step not in skipped]
    manifests: dict[int, Manifest | None] = {}

    def fault_of(step: int) -> str | None:
        manifests[step], faults = examine(directory.folder(step), "small files")
        return _agree(faults, group)

    step, faults = newest_whole(candidates, fault_of)
    skipped |= faults
    if step is not None:
        manifest = manifests[step]
        assert manifest is not None
        return _found(step, directory.folder(step), manifest, group, verify, skipped)
    if from_step is not None:
        raise DamagedError(from_step, faults[from_step])
    if skipped:
        listed = "\n  ".join(f"step {step}: {fault}" for step, fault in skipped.items())
        raise CheckpointError(
            f"{directory.path} has no checkpoint that is whole:\n  {listed}\nRestore the files from a copy, or begin "
            f"the run again with --overwrite, which deletes them"
        )
    return None


def _found(
    step: int,
    folder: Path,
    manifest: Manifest,
    group: dist.ProcessGroup,
    verify: Verify,
    skipped: Mapping[int, str],
) -> Found:
    """Begin to verify the large files, each on one rank, and read the small ones."""
    large = {name: record for name, record in manifest.files.items() if name not in SMALL_FILES}
    mine = deal(large, group.size())[group.rank()] if verify == "hash" else {}
    verification = Verification(step, folder, mine, group)
    return Found(step, folder, read_progress(folder, step), read_config(folder), manifest.files, verification, skipped)


def load_checkpoint(found: Found, state: TrainingState, group: dist.ProcessGroup) -> None:
    """Load a checkpoint into this rank's optimizer, parameters, schedule, balance statistics and random generators.

    Follows the thread that verifies: masters come first in the files, so parameters are set from them and gathered
    while the rest is still being read. Damage is ruled out only when this returns.

    Collectives: over ``group`` those of :func:`load_pieces` for the masters; all-gathers over the data-parallel and
    expert-data-parallel groups; over ``group`` those of :func:`load_pieces` for the rest, and an all_gather_object.

    Raises:
        DamagedError: on every rank: a file is damaged. The state is of no use until another checkpoint is loaded.
        CheckpointError: on every rank: the checkpoint lacks a tensor, has another shape of it, or an entry is not one.
    """
    progress = found.progress
    masters = state.held(masters_only=True)
    load_pieces(found, masters, group)
    state.optimizer.finish_loading(progress.schedule_steps)
    if progress.optimizer_states:
        loaded = {item.piece for item in masters}
        load_pieces(found, [item for item in state.held() if item.piece not in loaded], group)
    found.verification.confirm()
    if progress.optimizer_states:
        state.small.apply()
    if progress.random is not None:
        restore_random_state(progress.random)


def load_pieces(found: Found, held: Iterable[Held], group: dist.ProcessGroup) -> None:
    """Read the elements of ``held``, this rank's, behind the thread that verifies them; it may yet find damage.

    Collectives: agreement on the index over ``group``, then those of torch.distributed.checkpoint.load.

    Raises:
        DamagedError: on every rank: what could not be read is damaged.
        CheckpointError: on every rank: the checkpoint lacks a tensor, has another shape of it, or an entry is not one.
    """
    planner = PieceLoadPlanner([(item.piece, item.values) for item in held])
    with failing_together(f"reading the index of {found.folder}", group):
        reader = SafeReader(found.folder, found.index, found.verification.wait_for)
    try:
        dcp.load({}, storage_reader=reader, planner=planner, process_group=group)
    except CheckpointException as error:
        found.verification.confirm()  # what cannot be read is first of all damaged
        rank, (cause, _) = next(iter(sorted(error.failures.items())))
        raise CheckpointError(f"{found.folder} cannot be loaded: rank {rank}: {cause}") from None


def _agree(faults: list[str], group: dist.ProcessGroup) -> str | None:
    """Return all ranks' faults in one line, the same on every rank; ``None`` if there are none."""
    answers: list[Any] = [None] * group.size()
    dist.all_gather_object(answers, faults, group)
    every = dict.fromkeys(fault for answer in answers for fault in answer)
    return join_faults(every) if every else None
