"""Keys of documents, size and hash, as arrays: all that is needed to choose and to order documents, 40 bytes each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DIGEST_BYTES = 32
Rows = npt.NDArray[np.int64]
"""Positions of documents, shape ``[n]``."""


@dataclass(frozen=True)
class Keys:
    """The keys of N documents: sha256 of the text in UTF-8, uint8 ``[N, 32]``; its bytes, int64 ``[N]``."""

    digests: npt.NDArray[np.uint8]
    sizes: Rows

    def __len__(self) -> int:
        return len(self.sizes)

    @classmethod
    def of(cls, texts: Iterable[bytes]) -> Keys:
        """Return the keys of texts in UTF-8."""
        pairs = [(hashlib.sha256(text).digest(), len(text)) for text in texts]
        digests = np.frombuffer(b"".join(digest for digest, _ in pairs), np.uint8)
        return cls(digests.reshape(-1, DIGEST_BYTES), np.array([size for _, size in pairs], np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Keys]) -> Keys:
        """Return the keys of all ``parts``, in order."""
        digests = [np.empty((0, DIGEST_BYTES), np.uint8), *(part.digests for part in parts)]
        return cls(np.concatenate(digests), np.concatenate([np.empty(0, np.int64), *(part.sizes for part in parts)]))

    def take(self, rows: Rows) -> Keys:
        """Return the keys of ``rows``."""
        return Keys(self.digests[rows], self.sizes[rows])

    def subset(self, rows: Rows) -> Keys:
        """Return the same for ascending ``rows``, without a copy if these are all."""
        return self if len(rows) == len(self) else self.take(rows)

    def by_hash(self) -> Rows:
        """Return the positions of all documents in the order of their hash, of equal ones the first first."""
        return np.argsort(_comparable(self.digests), kind="stable")

    def by_reversed_hash(self) -> Rows:
        """Return the same for the hash in hexadecimal, read backwards."""
        swapped = (self.digests >> 4) | (self.digests << 4)
        return np.argsort(_comparable(np.ascontiguousarray(swapped[:, ::-1])), kind="stable")

    def first_of_equal(self) -> Rows:
        """Return for each document the first one with the same hash, which may be itself, shape ``[N]``."""
        order = self.by_hash()
        starts = self.starts_of_equal(order)
        copies = np.diff(np.append(starts, len(self)))
        first = np.empty(len(self), np.int64)
        first[order] = np.repeat(order[starts], copies)
        return first

    def starts_of_equal(self, order: Rows) -> Rows:
        """Return where in ``order``, which is that of :meth:`by_hash`, the hash is another than before."""
        ordered = _comparable(self.digests)[order]
        return np.flatnonzero(np.append(np.ones(min(len(self), 1), bool), ordered[1:] != ordered[:-1]))


def _comparable(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.bytes_]:
    """View digests as byte strings of one length, which numpy compares as memory, whatever zeros they end with."""
    return digests.view(f"S{DIGEST_BYTES}").reshape(-1)
