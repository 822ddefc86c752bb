"""The documents of several pieces of text as one, and where each of them is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from unipool_dist.base.reading import open_regular
from unipool_dist.data.keys import Keys, Rows
from unipool_dist.data.text_pieces import TextPiece
from unipool_dist.errors import DataError

_MAX_OPEN = 64
"""Files open at a time: validation is in the order of hashes, so that it may be in all pieces."""


class Texts:
    """The documents of several pieces, numbered from the first of the first to the last of the last."""

    def __init__(self, pieces: Sequence[TextPiece], keys: Sequence[Keys]) -> None:
        self.pieces = list(pieces)
        self.keys = Keys.joined(keys)
        self._starts = np.cumsum([0, *map(len, keys)])
        before = [np.cumsum(part.sizes) - part.sizes for part in keys]
        self._offsets = np.concatenate([np.empty(0, np.int64), *before])

    def places(self, rows: Rows) -> Places:
        """Return where the texts of ``rows`` are."""
        pieces = np.searchsorted(self._starts, rows, "right") - 1
        used, index = np.unique(pieces, return_inverse=True)
        files = [self.pieces[piece].text for piece in used]
        return Places(files, index.astype(np.int64), self._offsets[rows], self.keys.sizes[rows])

    def name_of(self, row: int) -> str:
        """Return the name of a document."""
        piece = int(np.searchsorted(self._starts, row, "right")) - 1
        return self.pieces[piece].name_of(row - int(self._starts[piece]))


@dataclass(frozen=True)
class Places:
    """Where documents are: for each the index of its file in ``files``, its first byte there, and its size."""

    files: Sequence[Path]
    index: Rows
    offsets: Rows
    sizes: Rows

    def read(self) -> Iterator[str]:
        """Yield the documents in order.

        Raises:
            DataError: a file has changed.
        """
        opened = dict[int, BinaryIO]()
        with ExitStack() as closing:
            for index, offset, size in zip(self.index, self.offsets, self.sizes, strict=True):
                if index not in opened:
                    if len(opened) == _MAX_OPEN:
                        closing.close()
                        opened.clear()
                    opened[index] = closing.enter_context(open_regular(self.files[index]))
                opened[index].seek(offset)
                data = opened[index].read(size)
                if len(data) != size:
                    raise DataError(f"{self.files[index]} has changed while it was in use: prepare the corpus again")
                yield data.decode()
