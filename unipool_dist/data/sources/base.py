"""What a source of text is: the contract between those who read text and those who prepare a corpus from it.

A :class:`Source` is one domain's text. Its ``units`` are what one process reads by itself: a file, a stream of the Hub,
a package. They have an order, and each yields its rows in order, so that

    [row for unit in source.units for row in unit.rows()]

is the same list wherever, in whatever order and by however many processes the units were read. A row is a
:class:`~unipool_dist.data.documents.Document`, or a :class:`Problem`: why a row has no usable text. A
unit that cannot be read at all raises ``DataError``, which names it.

Reading changes no text and drops none. What follows happens over the rows of all units, in this order, in one process:

1. problems are counted, and too many of them end the preparation (:mod:`unipool_dist.data.sources.tally`);
2. a source with fewer than ``MIN_DOCUMENTS`` documents is cut at paragraphs (``cut_short``);
3. empty and duplicate documents are dropped (``select``), from their :class:`~unipool_dist.data.keys.Keys` alone, that
   is from the hash and the size of the cleaned text;
4. documents are chosen and split (``split_documents``), also from the keys alone. Where a source has ``validation``
   units, its validation is what these hold, and nothing of ``units`` goes there. Validation units of all sources pass
   step 3 before any training unit does, so that no text is in both.

Steps 1 and 2 are taken by :mod:`unipool_dist.data.building`, the others by :mod:`unipool_dist.data.selection`.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from unipool_dist.base.rows.frames import Reason
from unipool_dist.data.corpus_manifest import Origin
from unipool_dist.data.documents import Document
from unipool_dist.errors import DataError


@dataclass(frozen=True)
class Problem:
    """A row without a usable text. ``place`` names it like a document, by file and line; ``detail`` is for people."""

    reason: Reason
    place: str
    detail: str


Row = Document | Problem


class Unit(Protocol):
    """What one process reads by itself. It can be pickled, and reads the same rows wherever it is unpickled."""

    @property
    def name(self) -> str:
        """Unique in its source, and the same at each preparation of the same files."""

    @property
    def num_bytes(self) -> int:
        """Bytes to be read, 0 if unknown. For estimates of time alone."""

    def rows(self) -> Iterator[Row]:
        """Yield the rows in order.

        Raises:
            DataError: the unit cannot be read to its end.
        """


@dataclass(frozen=True)
class FunctionUnit:
    """The documents that a function yields. It is pickled by name, so it has to be one of a module."""

    name: str
    read: Callable[[], Iterable[Row]]
    num_bytes: int = 0

    def rows(self) -> Iterator[Row]:
        return iter(self.read())


@dataclass(frozen=True)
class PassedOver:
    """The names of files that are not read: those of operating systems, and those that the user does without."""

    system: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def plus(self, other: PassedOver) -> PassedOver:
        """Return the files of both."""
        return PassedOver(self.system + other.system, self.unknown + other.unknown)


@dataclass(frozen=True, init=False)
class Source:
    """A domain's text. ``validation``: units that hold its validation text, ``None`` to split ``units`` by hash."""

    domain: str
    origins: list[Origin]
    units: Sequence[Unit]
    validation: Sequence[Unit] | None
    passed_over: PassedOver

    def __init__(
        self,
        domain: str,
        origins: Iterable[Origin],
        units: Sequence[Unit] | Callable[[], Iterable[Row]],
        validation: Sequence[Unit] | None = None,
        passed_over: PassedOver | None = None,
    ) -> None:
        """Describe a source. A function in place of ``units`` is the only unit, the same at every call."""
        object.__setattr__(self, "domain", domain)
        object.__setattr__(self, "origins", list(origins))
        object.__setattr__(self, "units", (FunctionUnit(domain, units),) if callable(units) else units)
        object.__setattr__(self, "validation", validation)
        object.__setattr__(self, "passed_over", passed_over or PassedOver())

    def documents(self) -> Iterator[Document]:
        """Yield the documents of all ``units`` in order; may be called again.

        Raises:
            DataError: a unit cannot be read, or has a bad row.
        """
        for unit in self.units:
            for row in unit.rows():
                if isinstance(row, Problem):
                    raise DataError(f"--source {self.domain}: {row.place} {row.detail}")
                yield row


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
