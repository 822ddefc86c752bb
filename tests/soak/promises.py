"""What checkpoints promise, looked up in what a killed run has left behind."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from tests.support.running import last_step, train_records
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.finding import examine
from unipool_dist.checkpoint.offline.tensor_reader import TensorReader
from unipool_dist.observe.jsonlines import read_json_lines


class ViolationError(AssertionError):
    """A promise was broken."""


def require(condition: bool, otherwise: str) -> None:
    """Raises :class:`ViolationError`, which says what is, ``otherwise``."""
    if not condition:
        raise ViolationError(otherwise)


class Remains:
    """The files of a run, of which no process may be left while this is made.

    Raises:
        ViolationError: a checkpoint is damaged, one that was reported is not there, or a step's record is missing or
            there twice.
    """

    def __init__(self, run_dir: Path, interval: int) -> None:
        directory = CheckpointDirectory(run_dir)
        steps = directory.steps()
        for step in steps:
            _, faults = examine(directory.folder(step), "every byte")
            require(not faults, f"a checkpoint that has its name is damaged: {faults}")
        self.newest = steps[-1] if steps else 0
        """Step of the newest checkpoint, all of whose bytes are right; 0: there is none."""
        self.last_step = last_step(run_dir)
        self.draft = draft(run_dir)
        recorded = [record["step"] for record in train_records(run_dir)]
        require(recorded == list(range(1, len(recorded) + 1)), f"metrics.jsonl has the steps {recorded}")
        reported = _reported(run_dir)
        require(reported <= self.newest, f"step {reported} was reported as saved, but {self.newest} is the newest")
        due = self.last_step // interval * interval
        self.unsaved = due if self.newest < due else None
        """Step whose save had begun, or was to begin, and is not there."""
        self.lost = max(self.last_step - self.newest, 0)
        self.allowed = interval + (self.last_step - due if self.unsaved is not None else 0)
        """One interval, and the steps that ran while the last save was still being written."""
        require(self.lost <= self.allowed, f"{self.lost} steps are lost, {self.allowed} are allowed: {vars(self)}")


def draft(run_dir: Path) -> int | None:
    """Step of the checkpoint that is being written."""
    drafts = [path.name for path in CheckpointDirectory(run_dir).path.glob("step-*.writing")]
    return max((int(name.removeprefix("step-").removesuffix(".writing")) for name in drafts), default=None)


def check_resumed(output: str, newest: int) -> None:
    """If a run got as far as to say from where it resumes, that is from the newest whole checkpoint."""
    said = re.search(r"resumed after step (\d+) of \d+ from (.*)", output)
    if said is not None:
        require(int(said[1]) == newest, f"resumed from {said[1]}, though {newest} is the newest")
        require(said[2].endswith(f"/step-{newest:08d}"), f"resumed from {said[2]}, which is not a checkpoint")
    require("damaged" not in output, f"a damaged checkpoint was found:\n{output}")


def check_equal(found: Path, expected: Path) -> int:
    """Require that two checkpoints hold the same tensors, bit for bit; returns how many."""
    one, other = TensorReader(found), TensorReader(expected)
    require(one.tensors.keys() == other.tensors.keys(), "other tensors than the uninterrupted run's")
    different = [
        name
        for name, tensor in other.tensors.items()
        if not torch.equal(one.whole(one.tensors[name]), other.whole(tensor))
    ]
    require(not different, f"not the uninterrupted run's, bit for bit: {', '.join(different)}")
    return len(one.tensors)


def _reported(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    records = read_json_lines(path) if path.exists() else []
    return max((record["step"] for record in records if "checkpoint" in record), default=0)
