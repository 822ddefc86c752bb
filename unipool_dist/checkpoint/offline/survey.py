"""List a run's ``checkpoints`` folder, judging by names, sizes and small files. Changes nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.checkpoint.finding import examine, is_checkpoint_folder
from unipool_dist.checkpoint.progress import Progress, read_progress
from unipool_dist.errors import CheckpointError

Kind = Literal["checkpoint", "unfinished", "half-deleted", "aside"]

_FOLDER = re.compile(r"step-(\d{8,})(?:\.(.+))?")
_KINDS: dict[str | None, Kind] = {None: "checkpoint", "writing": "unfinished", "deleting": "half-deleted"}


@dataclass(frozen=True)
class Entry:
    """A folder of the run; only one of the kind ``checkpoint`` is ever resumed from."""

    step: int
    folder: Path
    kind: Kind
    reason: str | None
    """Why it was set aside."""
    num_bytes: int
    num_files: int
    """Files with tensors."""
    faults: tuple[str, ...]
    """What is wrong with a checkpoint, or with one set aside, by its manifest and the sizes of its files."""
    progress: Progress | None
    """``None`` if it cannot be read."""


def survey(run_dir: Path) -> list[Entry]:
    """Return everything in ``run_dir/checkpoints``, ascending by step; empty if there is no such folder.

    Raises:
        CheckpointError: ``run_dir`` is not a directory, or a single checkpoint.
    """
    if not run_dir.is_dir():
        raise CheckpointError(f"{run_dir} is not a directory; give the run.dir of a run")
    if is_checkpoint_folder(run_dir):
        raise CheckpointError(f"{run_dir} is one checkpoint; give the run.dir of a run, or look at this with `inspect`")
    files = RunDirectory(run_dir)
    folders = [folder for parent in (files.checkpoints, files.aside) if parent.is_dir() for folder in parent.iterdir()]
    entries = [entry for folder in folders if (entry := _entry(folder)) is not None]
    return sorted(entries, key=lambda entry: (entry.step, entry.kind != "checkpoint", entry.folder.name))


def _entry(folder: Path) -> Entry | None:
    match = _FOLDER.fullmatch(folder.name)
    if match is None or not folder.is_dir():
        return None
    is_aside = folder.parent.name == RunDirectory.aside.name
    kind: Kind | None = "aside" if is_aside else _KINDS.get(match[2])
    if kind is None:
        return None
    faults: list[str] = examine(folder, "sizes")[1] if kind in ("checkpoint", "aside") else []
    progress = None
    try:
        progress = read_progress(folder, int(match[1]) if kind == "checkpoint" else None)
    except CheckpointError as error:
        if kind == "checkpoint" and not faults:
            faults = [str(error)]
    sizes = dict(_sizes(folder))
    return Entry(
        step=int(match[1]),
        folder=folder,
        kind=kind,
        reason=match[2] if is_aside else None,
        num_bytes=sum(sizes.values()),
        num_files=sum(name.endswith(".distcp") for name in sizes),
        faults=tuple(faults),
        progress=progress,
    )


def _sizes(folder: Path) -> list[tuple[str, int]]:
    """Return names and sizes of the files in ``folder`` that still exist: a run may be writing or deleting it."""
    sizes = []
    try:
        for path in folder.iterdir():
            sizes.append((path.name, path.lstat().st_size))
    except FileNotFoundError:
        pass
    return sizes
