"""Where a corpus is written until it is complete, how it gets its name, and what of an earlier one is removed.

Guarantees: a folder without a manifest is not a corpus, and the manifest comes last. A corpus is written to
``OUT.partial`` and becomes ``OUT`` by one rename. Where ``OUT`` is a mount point, onto which nothing can be renamed, or
a link to an empty folder, it is written to ``OUT/.partial`` and its files are moved up, the manifest last. Files that
are not part of a corpus are never deleted: they are refused before any work.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from unipool_dist.base.belongings import (
    Folder,
    Kept,
    any_file,
    exists,
    foreign,
    is_mount_point,
    listed,
    refuse,
    remove,
    unlink_link,
)
from unipool_dist.base.drafts import LOCK_FILE, DraftLockedError, check_draft, draft_kind, locked_draft
from unipool_dist.base.forms import json_object
from unipool_dist.data.corpus_manifest import MANIFEST_NAME, SPLITS
from unipool_dist.data.tokenizer import TOKENIZER_FILES
from unipool_dist.data.work import WORK
from unipool_dist.errors import DataError

DOWNLOADS = "downloads"
WORK_FOLDER = "work"
_INSIDE = ".partial"
_BESIDE = r"\.partial|\.\.partial\.[0-9a-f]{12}|lost\+found"
"""Other entries in a volume: the draft, one being made when its process was killed, and those of file systems."""

_FILES = {
    **{name.replace(".", r"\."): any_file for names in TOKENIZER_FILES.values() for name in names},
    rf".+\.({'|'.join(SPLITS)})\.(bin|idx)": any_file,
}
_INDEX = Folder({r"index\.json|.+\.npy|.+-description\.txt": any_file})
CORPUS = Folder(
    {
        **_FILES,
        r"manifest\.json": json_object("format_version", "options", "tokenizer", "domains", "files"),
        "cache": Folder({r"[0-9a-f]{24}(\.refused.*)?|incoming-.+": _INDEX}),
        DOWNLOADS: Kept(),
    },
    sign=r"manifest\.json",
)
"""The files of a corpus; its downloads are moved to the next one."""
_DRAFT = draft_kind(
    {
        **_FILES,
        r"manifest\.json(\.tmp)?": any_file,
        WORK_FOLDER: WORK,
        "spool": Folder({r".+\.arrow": any_file}),  # of earlier versions
        DOWNLOADS: Kept(),
    }
)


class Place:
    """The place of the corpus ``out``, an absolute path, during preparation.

    Raises:
        DataError: ``out`` is neither free nor a corpus.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._holds_corpus = (out / MANIFEST_NAME).exists()
        self._inside = is_mount_point(out) or (out.is_symlink() and not self._holds_corpus)
        self._draft = out / _INSIDE if self._inside else out.with_name(out.name + ".partial")
        self._replaced = out.with_name(out.name + ".replaced")
        if exists(out) and not out.is_dir():
            raise DataError(f"{listed([out])} exists and is not a folder: choose another or remove it")
        if exists(out) and not self._holds_corpus and (others := self._no_corpus()):
            raise DataError(
                f"{out} exists and is not a corpus (it has no {MANIFEST_NAME}, and holds {listed(others)}): choose "
                f"another or remove it"
            )

    def locked(self) -> AbstractContextManager[Path]:
        """Return a context with a folder for writing the corpus, to which no other process writes meanwhile.

        It is empty but for downloads, and for the work of an interrupted preparation.

        Raises:
            ForeignError: what would be replaced or deleted is not all of a corpus; nothing is changed then.
            DataError: another process prepares this corpus, or a share of it.
        """
        return self._locked(shared=False)

    def shared(self) -> AbstractContextManager[Path]:
        """Return the same for processes that prepare shares, which only add to the work in the folder.

        Raises:
            ForeignError: as :meth:`locked`.
            DataError: another process prepares all of this corpus.
        """
        return self._locked(shared=True)

    @contextmanager
    def _locked(self, *, shared: bool) -> Iterator[Path]:
        purpose = f"preparing {self.out}"
        check_draft(self._draft, _DRAFT, purpose=purpose)
        if not self._inside:
            refuse(_foreign_corpus(self._replaced), purpose)
        if self._holds_corpus and not self.out.is_symlink():
            refuse([path for path in foreign(self.out, CORPUS) if not self._is_beside(path)], purpose)
        try:
            with locked_draft(self._draft, _DRAFT, purpose=purpose, keep=WORK_FOLDER, shared=shared):
                yield self._draft
        except DraftLockedError:
            raise DataError(
                f"another process is preparing {self.out} (it has locked {self._draft}): wait for it"
            ) from None

    @property
    def downloads(self) -> Path:
        """Folder of downloads: that of an earlier preparation stays in use."""
        kept = self.out / DOWNLOADS
        return kept if kept.is_dir() else self._draft / DOWNLOADS

    def publish(self) -> None:
        """Make what was written the corpus at ``out``; an earlier one is removed, of a link only the link."""
        if self._inside:
            self._move_up()
        elif self.out.is_symlink():
            unlink_link(self.out)
            self._rename()
        else:
            self._retire()
            if self.out.exists():
                self.out.rename(self._replaced)
            self._rename()
            self._retire()

    def _rename(self) -> None:
        self._draft.rename(self.out)
        remove(self.out / LOCK_FILE, any_file)

    def _retire(self) -> None:
        """Remove the corpus that was set aside; keep its downloads where the new one has none."""
        downloads = self._replaced / DOWNLOADS
        if exists(downloads) and self.out.is_dir() and not exists(self.out / DOWNLOADS):
            downloads.rename(self.out / DOWNLOADS)
        remove(self._replaced, CORPUS)
        if exists(self._replaced) and not self.out.exists():
            raise DataError(f"{self._replaced} still holds {DOWNLOADS}: move them away, and prepare again")

    def _move_up(self) -> None:
        """Move the files up, where nothing can be renamed onto ``out``."""
        remove(self.out / MANIFEST_NAME, CORPUS.of(MANIFEST_NAME))
        for entry in sorted(self.out.iterdir()):
            if not self._is_beside(entry):
                remove(entry, CORPUS.of(entry.name))
        for entry in sorted(self._draft.iterdir()):
            if entry.name not in (LOCK_FILE, MANIFEST_NAME) and not exists(self.out / entry.name):
                entry.rename(self.out / entry.name)
        (self._draft / MANIFEST_NAME).rename(self.out / MANIFEST_NAME)
        remove(self._draft, _DRAFT)

    def _is_beside(self, path: Path) -> bool:
        """Return whether ``path`` is in the volume without being part of its corpus."""
        return self._inside and path.parent == self.out and re.fullmatch(_BESIDE, path.name) is not None

    def _no_corpus(self) -> list[Path]:
        """Return the entries of ``out``, which has no manifest, except files half moved up by a killed process."""
        found = [entry for entry in sorted(self.out.iterdir()) if not self._is_beside(entry)]
        if self._inside and (self._draft / MANIFEST_NAME).exists() and not foreign(self._draft, _DRAFT):
            found = [entry for entry in found if foreign(entry, CORPUS.of(entry.name))]
        return found


def _foreign_corpus(path: Path) -> list[Path]:
    """Return what is not part of a corpus that was set aside; all of it for a link, mount point or empty folder."""
    if exists(path) and (path.is_symlink() or is_mount_point(path) or not exists(path / MANIFEST_NAME)):
        return [path]
    return foreign(path, CORPUS)
