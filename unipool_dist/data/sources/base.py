"""The protocol of every source of text, and the files inside packages."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from unipool_dist.data.corpus_manifest import Origin
from unipool_dist.data.documents import Document


@dataclass(frozen=True)
class Source:
    """A domain's text. ``documents()`` may be called again and yields the same documents in the same order."""

    domain: str
    origins: list[Origin]
    documents: Callable[[], Iterator[Document]]


class Files(Protocol):
    """A read-only set of files: a zip archive or a folder."""

    def matching(self, pattern: str) -> Iterator[tuple[str, bytes]]:
        """Yield name (with ``/``) and content of every file whose name matches the expression, sorted by name."""


@dataclass(frozen=True)
class ZipFiles:
    """The members of a zip archive, for example a wheel."""

    path: Path

    def matching(self, pattern: str) -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(self.path) as archive:
            for name in sorted(archive.namelist()):
                if re.search(pattern, name):
                    yield name, archive.read(name)


@dataclass(frozen=True)
class FolderFiles:
    """The files below ``root``, with names relative to it; optionally only those below ``within``."""

    root: Path
    within: str = "."

    def matching(self, pattern: str) -> Iterator[tuple[str, bytes]]:
        files = [path for path in (self.root / self.within).rglob("*") if path.is_file()]
        for name, path in sorted((path.relative_to(self.root).as_posix(), path) for path in files):
            if re.search(pattern, name):
                yield name, path.read_bytes()


def text_of(data: bytes) -> str:
    """Decode ``data`` as UTF-8, replacing invalid bytes."""
    return data.decode("utf-8", "replace")
