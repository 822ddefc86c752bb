"""A run directory with checkpoints, copies of it to be damaged, and what is found in them by two ranks."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.checkpoint.known_state import fill
from tests.checkpoint.support import load_step, save_step
from tests.support.training import built, tiny_config
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.manifest import MANIFEST_FILE, Manifest, hash_file, read_manifest
from unipool_dist.checkpoint.resume import DamagedError, Found, Verify, find_checkpoint
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.groups import ParallelGroups, process_groups
from unipool_dist.errors import CheckpointError

FILES = (".metadata", "__0_0.distcp", "__1_0.distcp", "state.json", "config.yaml", MANIFEST_FILE)
STEPS = (1, 2, 3)
RANKS = 2


def save_run(environment: Environment, run_dir: Path) -> None:
    """Save ``STEPS``, each with other weights and another configuration. Runs in worker processes."""
    for number, step in enumerate(STEPS):
        config = tiny_config("parallel.pp=2", "checkpoint.keep_last=0", f"optimizer.lr=0.0{step}", world_size=RANKS)
        here = Environment(
            environment.rank, RANKS, environment.rank, environment.master_addr, environment.master_port + number
        )
        with built(config, here) as (groups, model, train_step):
            fill(groups, model, train_step, salt=f"of step {step}")
            save_step(config, groups, model, train_step, run_dir, step)


@dataclass(frozen=True)
class Outcome:
    """What :func:`find_checkpoint` returned or raised; the same on every rank."""

    step: int | None = None
    damaged: dict[int, str] | None = None
    error: str | None = None


def find_all(environment: Environment, looks: list[tuple[Path, int | None, Verify]]) -> list[Outcome]:
    """Look for a checkpoint in each of these run directories. Runs in worker processes."""
    outcomes = []
    with process_groups(tiny_config("parallel.pp=2", world_size=RANKS), environment) as groups:
        for run_dir, from_step, verify in looks:
            try:
                found = _find_whole(CheckpointDirectory(run_dir), groups, from_step, verify)
            except CheckpointError as error:
                outcomes.append(Outcome(error=str(error)))
            else:
                outcomes.append(Outcome(found.step, dict(found.damaged)) if found is not None else Outcome())
    return outcomes


def _find_whole(
    directory: CheckpointDirectory, groups: ParallelGroups, from_step: int | None, verify: Verify
) -> Found | None:
    """As a session does it: what turns out to be damaged is passed over."""
    damaged: dict[int, str] = {}
    while True:
        found = find_checkpoint(directory, groups.storage, from_step=from_step, verify=verify, damaged=damaged)
        try:
            if found is not None:
                found.verification.confirm()
            return found
        except DamagedError as error:
            if from_step is not None:
                raise
            damaged[error.step] = error.fault


def load_all(environment: Environment, run_dirs: list[Path]) -> list[str]:
    """The error of loading the newest checkpoint of each run directory, or ``""``. Runs in worker processes."""
    errors = []
    with built(tiny_config("parallel.pp=2", world_size=RANKS), environment) as (groups, model, train_step):
        for run_dir in run_dirs:
            try:
                load_step(groups, model, train_step, run_dir, None)
            except CheckpointError as error:
                errors.append(str(error))
            else:
                errors.append("")
    return errors


def copy_run(run_dir: Path, to: Path) -> CheckpointDirectory:
    """A copy that shares the content of files; they must be replaced, not written into."""
    shutil.copytree(run_dir, to, copy_function=os.link)
    return CheckpointDirectory(to)


def replace_file(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def swap(one: Path, other: Path) -> None:
    """Exchange two files."""
    assert one.read_bytes() != other.read_bytes(), "to exchange equal files is no damage"
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def flip_bit(path: Path, seed: int, *, after: float = 0.0) -> None:
    """Flip one bit, anywhere or behind the share ``after`` of the file."""
    content = bytearray(path.read_bytes())
    draw = random.Random(f"{path.name} {seed}")
    content[draw.randrange(int(after * len(content)), len(content))] ^= 1 << draw.randrange(8)
    replace_file(path, bytes(content))


def adapt_manifest(folder: Path) -> None:
    """Make a manifest that fits the files that are there, as whoever tampers with a checkpoint would."""
    manifest = read_manifest(folder)
    files = {name: hash_file(folder / name) for name in manifest.files}
    replace_file(folder / MANIFEST_FILE, Manifest(manifest.step, files).dump().encode())
