"""A domain's documents on disk, chosen and split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from unipool_dist.data.corpus_manifest import Origin, RowCounts
from unipool_dist.data.documents import Split
from unipool_dist.data.keys import Rows
from unipool_dist.data.texts import Texts


@dataclass(frozen=True)
class Spool:
    """A domain's documents. ``split`` refers to documents of ``texts``, and some of these may be on neither side."""

    domain: str
    origins: list[Origin]
    texts: Texts
    split: Split
    rows: RowCounts

    def sample(self, num_bytes: int) -> Iterator[str]:
        """Yield training documents in the order of their hash, until ``num_bytes`` of text are reached."""
        train = self.split.train
        for row in train[self.texts.keys.take(train).by_hash()]:
            yield from self.texts.places(row.reshape(1)).read()
            num_bytes -= int(self.texts.keys.sizes[row])
            if num_bytes <= 0:
                return

    def num_bytes(self, rows: Rows) -> int:
        """Return the bytes of UTF-8 text in ``rows``."""
        return int(self.texts.keys.sizes[rows].sum())
