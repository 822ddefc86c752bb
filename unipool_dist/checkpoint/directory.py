"""The checkpoints of a run: ``RUN/checkpoints/step-00000100`` and so on, and what may happen to such a folder.

Guarantees: a folder with such a name is a checkpoint that was whole when it got the name, because it gets it by a
rename at the very end of writing; it loses the name, again by a rename, before anything of it is deleted. What there
is, is found by looking.

Only the process that holds the run's lock calls the methods that change anything.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from unipool_dist.checkpoint.durable import flush, rename_durably

CHECKPOINTS = "checkpoints"
ASIDE = "aside"

_NAME = re.compile(r"step-(\d{8,})")
_WRITING, _DELETING = ".writing", ".deleting"


class CheckpointDirectory:
    """All checkpoints of the run in ``run_dir``."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / CHECKPOINTS
        self._doomed = self.path.with_name(CHECKPOINTS + _DELETING)

    def steps(self) -> list[int]:
        """Steps of which there is a checkpoint, ascending; whether its files are still good is for others to say."""
        if not self.path.is_dir():
            return []
        matches = (_NAME.fullmatch(entry.name) for entry in self.path.iterdir() if entry.is_dir())
        return sorted(int(match[1]) for match in matches if match)

    def folder(self, step: int) -> Path:
        """Where the checkpoint of ``step`` is, or would be."""
        return self.path / f"step-{step:08d}"

    def draft(self, step: int) -> Path:
        """Where the checkpoint of ``step`` is written, aside, before it is whole."""
        return self.path / f"step-{step:08d}{_WRITING}"

    def begin(self, step: int) -> None:
        """Make an empty folder :meth:`draft`."""
        draft = self.draft(step)
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(parents=True)

    def commit(self, step: int) -> None:
        """The draft, whose files are on disk, becomes the checkpoint of ``step``."""
        flush(self.draft(step))
        rename_durably(self.draft(step), self.folder(step))

    def abandon(self, step: int) -> None:
        """Remove what there is of a draft, as far as that is possible."""
        shutil.rmtree(self.draft(step), ignore_errors=True)

    def delete(self, step: int) -> None:
        """Delete the checkpoint of ``step``. Interrupted at any moment, it leaves a whole checkpoint or none."""
        folder = self.folder(step)
        doomed = folder.with_name(folder.name + _DELETING)
        if doomed.exists():
            shutil.rmtree(doomed)
        rename_durably(folder, doomed)
        shutil.rmtree(doomed)

    def delete_all(self) -> None:
        """Delete every checkpoint, and those set aside. Interrupted at any moment, it leaves all of them or none."""
        if self._doomed.exists():
            shutil.rmtree(self._doomed)
        if self.path.is_dir():
            rename_durably(self.path, self._doomed)
            shutil.rmtree(self._doomed)

    def clean_up(self) -> None:
        """Remove drafts and half-deleted folders that a killed process has left."""
        if self._doomed.exists():
            shutil.rmtree(self._doomed)
        if self.path.is_dir():
            for entry in self.path.iterdir():
                if entry.is_dir() and entry.name.endswith((_WRITING, _DELETING)):
                    shutil.rmtree(entry)

    def set_aside(self, step: int, reason: str) -> Path:
        """Move the checkpoint of ``step`` out of the way, unchanged, to ``checkpoints/aside``; return where it went."""
        folder = self.folder(step)
        aside = self.path / ASIDE
        aside.mkdir(exist_ok=True)
        names = (f"{folder.name}.{reason}{suffix}" for suffix in ("", *(f".{i}" for i in range(2, 1_000_000))))
        target = next(aside / name for name in names if not (aside / name).exists())
        folder.rename(target)
        flush(self.path)
        flush(aside)
        return target


def outdated(steps: list[int], keep_last: int, keep_every: int) -> list[int]:
    """Of ``steps`` (ascending), those to delete: all but the last ``keep_last`` and multiples of ``keep_every``.

    ``keep_last=0`` keeps all; ``keep_every=0`` keeps none beyond the last.
    """
    old = steps[:-keep_last] if keep_last else []
    return [step for step in old if not keep_every or step % keep_every]
