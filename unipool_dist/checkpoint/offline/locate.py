"""Find the checkpoint meant by a path and perhaps a step, and read its small files; without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unipool_dist.base.progress_bars import Bar, no_bar
from unipool_dist.checkpoint.directory import CheckpointDirectory, step_in_name
from unipool_dist.checkpoint.finding import examine, is_checkpoint_folder, newest_whole, steps_to_try
from unipool_dist.checkpoint.manifest import Manifest, join_faults, read_manifest
from unipool_dist.checkpoint.progress import Progress, read_config, read_progress
from unipool_dist.config import Config
from unipool_dist.errors import CheckpointError


@dataclass(frozen=True)
class Located:
    """A checkpoint that is whole judging by its manifest and the sizes of its files."""

    folder: Path
    manifest: Manifest
    progress: Progress
    config: Config
    """Resolved configuration of the run that wrote it."""
    passed_over: tuple[str, ...] = ()
    """What is wrong with newer checkpoints."""


def locate(path: Path, step: int | None) -> Located:
    """Find the checkpoint meant by ``path``: a checkpoint's own folder, or the one of ``step`` in a run.

    Without a step it is the newest that is whole judging by its manifest and the sizes of its files.

    Raises:
        CheckpointError: there is none, the one asked for is not whole, or it cannot be read by this version.
    """
    folders = checkpoint_folders(path, step)
    folder, faults = newest_whole(folders, _fault)
    if folder is not None:
        return _open(folder, tuple(faults.values()))
    every = "\n  ".join(faults.values())
    raise CheckpointError(
        f"{path} has no checkpoint that is whole:\n  {every}\nChoose another step or restore the files"
        if len(folders) > 1
        else f"the checkpoint is damaged: {every}; choose another step or restore the files"
    )


def _fault(folder: Path) -> str | None:
    _, faults = examine(folder, "sizes")
    return join_faults(faults) if faults else None


def checkpoint_folders(path: Path, step: int | None) -> list[Path]:
    """Return the folders of the checkpoints meant by ``path`` and ``step``, ascending by step; at least one.

    ``path`` is a run directory, or one checkpoint's folder, which may have been moved elsewhere.

    Raises:
        CheckpointError: there is none.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a directory; give the run.dir of a run, or the folder of a checkpoint")
    folder = path.resolve()
    if is_checkpoint_folder(folder):
        if step is not None and step != _step_of(folder):
            raise CheckpointError(f"{path} is one checkpoint already, not that of step {step}; leave out --step")
        return [folder]
    directory = CheckpointDirectory(path)
    steps = directory.steps()
    if not steps:
        raise CheckpointError(f"{path} has no checkpoints: there are none in {directory.path}")
    return [directory.folder(each) for each in steps_to_try(directory, steps, step)]


def _step_of(folder: Path) -> int:
    named = step_in_name(folder)
    return read_manifest(folder).step if named is None else named


def check_contents(located: Located, bar: Bar = no_bar) -> None:
    """Compare every byte with the manifest.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    with bar("verifying", located.manifest.num_bytes) as count:
        faults = examine(located.folder, "every byte", count)[1]
    if faults:
        raise CheckpointError(
            f"the checkpoint is damaged: {join_faults(faults)}; choose another step or restore the files"
        )


def _open(folder: Path, passed_over: tuple[str, ...]) -> Located:
    manifest = read_manifest(folder)
    return Located(folder, manifest, read_progress(folder, manifest.step), read_config(folder), passed_over)
