"""The checkpoints of a run: folders ``RUN/checkpoints/step-00000100`` and so on, and what may happen to them.

Guarantees: a folder gets such a name by a rename at the very end of writing, so it was whole then; it loses the name,
again by a rename, before anything of it is deleted. No list is kept: what exists is found by looking. Only what
:mod:`unipool_dist.base.belongings` recognizes as a checkpoint is deleted, and never what was set aside. ``checkpoints``
and each checkpoint may be a link or a mount point.

Only the process that holds the run's lock calls the methods that change anything.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from unipool_dist.base.belongings import (
    Folder,
    ForeignError,
    Kept,
    any_file,
    empty,
    exists,
    foreign,
    free_name,
    is_mount_point,
    refuse,
    remove,
    remove_if_empty,
    unlink_link,
)
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.writing import flush, rename_durably

_NAME = re.compile(r"step-(\d{8,})")
_WRITING, _DELETING = ".writing", ".deleting"

_TENSORS = r"__\d+_\d+\.distcp(\.tmp)?|\.metadata(\.tmp)?"
_RECORDS = r"manifest\.json|state\.json"
_FILES = {_TENSORS: any_file, _RECORDS: any_file, RunDirectory.config.pattern: any_file}
CHECKPOINT = Folder(_FILES, sign=_RECORDS)
UNFINISHED = Folder(_FILES, sign=_TENSORS)
"""Half written, or half deleted."""
_ENTRIES = {r"step-\d{8,}": CHECKPOINT, rf"step-\d{{8,}}({_WRITING}|{_DELETING})": UNFINISHED}


class CheckpointDirectory:
    """All checkpoints of the run in ``run_dir``."""

    def __init__(self, run_dir: Path) -> None:
        self.path, self._aside = RunDirectory(run_dir).checkpoints, RunDirectory(run_dir).aside
        self._doomed = _doomed(self.path)  # where earlier versions put all that was to go

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, ascending; whether its files are still good is not checked."""
        if not self.path.is_dir():
            return []
        steps = (step_in_name(entry) for entry in self.path.iterdir() if _holds_something(entry))
        return sorted(step for step in steps if step is not None)

    def folder(self, step: int) -> Path:
        """Return the path of the checkpoint of ``step``, which need not exist."""
        return self.path / f"step-{step:08d}"

    def draft(self, step: int) -> Path:
        """Return the path at which the checkpoint of ``step`` is written until it is whole."""
        return self.path / f"{self.folder(step).name}{_WRITING}"

    def in_the_way(self) -> list[Path]:
        """Return what has the name of a checkpoint, or of their folder, and is not one.

        Other files next to those of a checkpoint are ignored.
        """
        if not exists(self.path):
            return []
        if not self.path.is_dir():
            return [self.path]
        named = [entry for entry in sorted(self.path.iterdir()) if _kind_of(entry) is not None]
        no_folder = [self._aside] if exists(self._aside) and not self._aside.is_dir() else []
        return [entry for entry in named if not _seems_ours(entry)] + no_folder

    def foreign(self) -> list[Path]:
        """Return everything in the directory but checkpoints as they were written, and ``aside``."""
        return foreign(self.path, Folder({**_ENTRIES, RunDirectory.aside.pattern: Kept()}))

    def begin(self, step: int) -> None:
        """Make an empty folder :meth:`draft`.

        Raises:
            ForeignError: there is something else of that name.
        """
        draft = self.draft(step)
        remove(draft, UNFINISHED)
        draft.mkdir(parents=True, exist_ok=True)

    def commit(self, step: int) -> None:
        """Make the draft, whose files are on disk, the checkpoint of ``step``."""
        flush(self.draft(step))
        rename_durably(self.draft(step), self.folder(step))

    def abandon(self, step: int) -> None:
        """Remove what exists of a draft, as far as possible."""
        _remove_if_ours(self.draft(step))

    def delete(self, step: int) -> None:
        """Delete the checkpoint of ``step``. If interrupted at any moment, a whole checkpoint is left or none.

        If it is a link only the link is removed; a mount point is emptied.

        Raises:
            ForeignError: something in it is not the checkpoint's; then all of it stays.
        """
        folder = self.folder(step)
        if folder.is_symlink():
            unlink_link(folder)
            return
        refuse(foreign(folder, CHECKPOINT), f"deleting the checkpoint of step {step}")
        if is_mount_point(folder):
            empty(folder, CHECKPOINT)
            return
        self._doom(step)
        flush(self.path)
        remove(_doomed(folder), UNFINISHED)

    def delete_all(self) -> None:
        """Delete every checkpoint but those set aside. If interrupted at any moment, the newest is left or none.

        Raises:
            ForeignError: there is something that is not a checkpoint; then all of them stay.
        """
        refuse(self.foreign(), f"deleting the checkpoints in {self.path}")
        movable = [step for step in self.steps() if not is_mount_point(self.folder(step))]
        for step in movable:
            self._doom(step)
        for step in self.steps():
            empty(self.folder(step), CHECKPOINT)
        if movable:
            flush(self.path)
        self.clean_up()
        remove_if_empty(self.path)

    def clean_up(self) -> None:
        """Remove drafts and half-deleted folders left by a killed process."""
        for folder in (self._doomed, self.path):
            entries = sorted(folder.iterdir()) if folder.is_dir() else []
            for entry in entries:
                if folder == self._doomed or _kind_of(entry) is UNFINISHED:
                    _remove_if_ours(entry)
        remove_if_empty(self._doomed)

    def _doom(self, step: int) -> None:
        """Take the name from a checkpoint that is to be deleted."""
        doomed = _doomed(self.folder(step))
        remove(doomed, UNFINISHED)
        os.rename(self.folder(step), doomed)

    def set_aside(self, step: int, reason: str) -> Path:
        """Move the checkpoint of ``step`` out of the way, unchanged, to ``checkpoints/aside``; return where it went."""
        folder = self.folder(step)
        self._aside.mkdir(exist_ok=True)
        target = free_name(self._aside / f"{folder.name}.{reason}")
        if folder.is_symlink():  # moved, a relative link would lead elsewhere
            target.symlink_to(folder.resolve())
            unlink_link(folder)
        else:
            folder.rename(target)
        flush(self.path)
        flush(self._aside)
        return target


def step_in_name(folder: Path) -> int | None:
    """Return the step in the name of ``folder`` if that is a checkpoint's name, else ``None``."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else None


def outdated(steps: list[int], keep_last: int, keep_every: int) -> list[int]:
    """Return those of ``steps`` (ascending) to delete: all but the last ``keep_last`` and multiples of ``keep_every``.

    ``keep_last=0`` keeps all; ``keep_every=0`` keeps none beyond the last.
    """
    old = steps[:-keep_last] if keep_last else []
    return [step for step in old if not keep_every or step % keep_every]


def _doomed(folder: Path) -> Path:
    return folder.with_name(folder.name + _DELETING)


def _kind_of(entry: Path) -> Folder | None:
    """Return the kind of folder that has such a name."""
    return next((kind for pattern, kind in _ENTRIES.items() if re.fullmatch(pattern, entry.name)), None)


def _seems_ours(entry: Path) -> bool:
    """Return whether a folder, or a link to one, is empty or holds some file of a checkpoint."""
    try:
        names = os.listdir(entry)
    except OSError:
        return False
    return not names or any(re.fullmatch(f"{_TENSORS}|{_RECORDS}", name) for name in names)


def _holds_something(folder: Path) -> bool:
    """Return whether it is a folder or a link to one, but not a mount point left after its checkpoint was deleted."""
    try:
        return bool(os.listdir(folder)) or not is_mount_point(folder)
    except OSError:
        return False


def _remove_if_ours(entry: Path) -> None:
    """Remove a former or unfinished checkpoint, as far as possible."""
    try:
        remove(entry, _kind_of(entry))
        remove_if_empty(entry)  # as a removal that was interrupted at its very end leaves it
    except (OSError, ForeignError):
        return
