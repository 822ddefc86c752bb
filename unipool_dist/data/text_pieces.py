"""Pieces of text: the documents of one unit on disk, cleaned, with their keys and the counts of what was read.

A piece is three files, ``NAME.text`` with one document after the other in UTF-8, ``NAME.names`` with the name of each
as a line of JSON, and ``NAME.keys``, which is written last: with it the piece is there, without it not. Pieces are
written once, whole, and read at any place; a source may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from unipool_dist.base.progress_bars import Count
from unipool_dist.base.reading import open_regular
from unipool_dist.base.writing import replacing
from unipool_dist.data.documents import Document, clean, cut_short
from unipool_dist.data.keys import DIGEST_BYTES, Keys
from unipool_dist.data.sources.base import Unit
from unipool_dist.data.sources.tally import Tally

_MAX_HEAD_BYTES = 1 << 20


@dataclass(frozen=True)
class TextPiece:
    """A piece; ``path`` is that of its files without their endings."""

    path: Path

    @property
    def text(self) -> Path:
        return self.path.with_name(f"{self.path.name}.text")

    @property
    def names(self) -> Path:
        return self.path.with_name(f"{self.path.name}.names")

    @property
    def keys(self) -> Path:
        return self.path.with_name(f"{self.path.name}.keys")

    def write(self, documents: Iterable[Document], tally: Tally, count: Count) -> None:
        """Write the documents, and ``tally`` as it is once they have been read.

        Raises:
            OSError: the disk is full, for example; then there is no piece.
        """
        digests, sizes = bytearray(), list[int]()
        with ExitStack() as files:
            text_file, names_file = (files.enter_context(replacing(path)) for path in (self.text, self.names))
            for document in documents:
                text = clean(document.text).encode()
                text_file.write(text)
                names_file.write(json.dumps(document.name).encode() + b"\n")
                digests += hashlib.sha256(text).digest()
                sizes.append(len(text))
                count(len(text))
        with replacing(self.keys) as file:
            head = {
                "documents": len(sizes),
                "text_bytes": sum(sizes),
                "tally": {**vars(tally), "dropped": dict(tally.dropped)},
            }
            file.write(json.dumps(head).encode() + b"\n")
            file.write(digests)
            np.array(sizes, np.int64).tofile(file)

    def exists(self) -> bool:
        """Return whether the piece is there, and whole."""
        try:
            with open_regular(self.keys) as file:
                head = json.loads(file.readline(_MAX_HEAD_BYTES))
                num_keys = (os.fstat(file.fileno()).st_size - file.tell()) / (DIGEST_BYTES + 8)
            sizes = head["text_bytes"], head["documents"]
            return bool((self.text.stat().st_size, num_keys) == sizes and self.names.is_file())
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def read(self) -> tuple[Keys, Tally]:
        """Return the keys and the tally of a piece that exists."""
        with open_regular(self.keys) as file:
            head = json.loads(file.readline(_MAX_HEAD_BYTES))
            data = file.read()
        documents = head["documents"]
        digests = np.frombuffer(data, np.uint8, documents * DIGEST_BYTES).reshape(-1, DIGEST_BYTES)
        sizes = np.frombuffer(data, np.int64, documents, documents * DIGEST_BYTES)
        return Keys(digests, sizes), Tally(**head["tally"])

    def name_of(self, row: int) -> str:
        """Return the name of a document."""
        with open_regular(self.names) as file:
            return str(json.loads(next(islice(file, row, None))))


@dataclass(frozen=True)
class ReadUnit:
    """Task: read a unit of ``domain`` into a piece."""

    unit: Unit
    piece: TextPiece
    domain: str
    max_bad_rows: int | None

    def run(self, count: Count) -> None:
        """Write the piece; ``count`` gets the size of the unit in all, as far as it is known.

        Raises:
            DataError: the unit cannot be read, or has more bad rows than allowed.
        """
        tally, left = Tally(), self.unit.num_bytes

        def within_size(done: int) -> None:  # what is read may be compressed, or more than its text
            nonlocal left
            done = done if self.unit.num_bytes == 0 else min(done, left)
            left -= done
            count(done)

        self.piece.write(self._documents(tally), tally, within_size)
        count(max(left, 0))

    def _documents(self, tally: Tally) -> Iterator[Document]:
        for row in self.unit.rows():
            tally.note(row)
            if isinstance(row, Document):
                yield row
            elif self.max_bad_rows is not None and tally.bad > self.max_bad_rows:
                tally.check(self.domain, self.max_bad_rows)


@dataclass(frozen=True)
class CutUnits:
    """Task: read the units of a source of few documents, and cut these at paragraphs, into one piece."""

    units: Sequence[Unit]
    piece: TextPiece

    def run(self, count: Count) -> None:
        """Write the piece.

        Raises:
            DataError: a unit cannot be read.
        """
        documents = [row for unit in self.units for row in unit.rows() if isinstance(row, Document)]
        self.piece.write(cut_short(documents), Tally(), count)
