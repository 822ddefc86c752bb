"""Find a checkpoint, and tell what is wrong with one: the one place for both, without torch.

Used alike by ranks that resume or open a run together (:mod:`unipool_dist.checkpoint.resume`) and by commands that look
at checkpoints in one process (:mod:`unipool_dist.checkpoint.offline`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from unipool_dist.base.progress_bars import Count
from unipool_dist.checkpoint.directory import CheckpointDirectory, step_in_name
from unipool_dist.checkpoint.manifest import (
    MANIFEST_FILE,
    SMALL_FILES,
    Manifest,
    content_faults,
    read_manifest,
    size_faults,
)
from unipool_dist.errors import CheckpointError

Depth = Literal["sizes", "small files", "every byte"]
"""How much is compared with the manifest: sizes alone; also the content of small files; or of all."""
Place = TypeVar("Place")


def is_checkpoint_folder(path: Path) -> bool:
    """Return whether ``path`` is one checkpoint, by its name or, if it was renamed, by its manifest."""
    return step_in_name(path.resolve()) is not None or (path / MANIFEST_FILE).is_file()


def examine(folder: Path, depth: Depth, count: Count | None = None) -> tuple[Manifest | None, list[str]]:
    """Return the manifest of the checkpoint in ``folder`` and what is wrong with its files.

    Args:
        count: called with the bytes read, where every byte is.
    """
    try:
        manifest = read_manifest(folder)
        if step_in_name(folder) not in (None, manifest.step):  # first: the other files only fail to match it
            return manifest, [f"{folder / MANIFEST_FILE} is that of step {manifest.step}"]
        if depth == "every byte":
            return manifest, content_faults(folder, manifest.files, count)
        faults = size_faults(folder, manifest)
        small = {name: record for name, record in manifest.files.items() if name in SMALL_FILES}
        return manifest, faults or (content_faults(folder, small) if depth == "small files" else [])
    except (CheckpointError, OSError) as error:
        return None, [str(error)]


def steps_to_try(directory: CheckpointDirectory, steps: Sequence[int], wanted: int | None) -> list[int]:
    """Return the steps whose checkpoints may be used: all ``steps`` of ``directory``, or the wanted one.

    Raises:
        CheckpointError: the wanted one is not among them.
    """
    if wanted is not None and wanted not in steps:
        there = ", ".join(map(str, steps)) or "none"
        raise CheckpointError(f"{directory.path} has no checkpoint of step {wanted}; there are: {there}")
    return [*steps] if wanted is None else [wanted]


def newest_whole(
    places: Iterable[Place], fault_of: Callable[[Place], str | None]
) -> tuple[Place | None, dict[Place, str]]:
    """Return the last of ``places`` without a fault, and the faults of those after it; ``None`` if all have one."""
    faults: dict[Place, str] = {}
    for place in reversed([*places]):
        fault = fault_of(place)
        if fault is None:
            return place, faults
        faults[place] = fault
    return None, faults
