"""Join pieces of tokens to token stores: Megatron-core's indexed datasets, one sequence and one document per text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from unipool_dist.base.progress_bars import Count
from unipool_dist.data.corpus_manifest import FileRecord, store_dtype
from unipool_dist.data.packing import TokenType
from unipool_dist.data.token_store import index_header

_AT_ONCE = 1 << 20
"""Tokens, or numbers of the index, that are in memory at a time."""


@dataclass(frozen=True)
class Joined:
    """A token store. ``counts``: how often each token occurs, shape ``[vocab_size]``; ``files``: by their endings."""

    counts: npt.NDArray[np.int64]
    files: dict[str, FileRecord]


class _HashedFile:
    """A file that is written once, from its beginning, and hashed on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self._size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data)

    def record(self) -> FileRecord:
        return FileRecord(num_bytes=self._size, sha256=self._hash.hexdigest())


class Piece(Protocol):
    """Documents, as tokens."""

    def lengths(self) -> npt.NDArray[np.int32]:
        """Return the number of tokens of each document."""

    def tokens(self, dtype: TokenType, at_once: int) -> Iterator[npt.NDArray[np.generic]]:
        """Yield the tokens, ``at_once`` at a time."""


@dataclass(frozen=True)
class JoinPieces:
    """Task: write the token store ``prefix`` (``.bin`` and ``.idx``) from its pieces, in order."""

    pieces: Sequence[Piece]
    prefix: Path
    vocab_size: int

    def run(self, count: Count) -> Joined:
        """Write both files; ``count`` gets bytes of tokens."""
        dtype = store_dtype(self.vocab_size)
        counts = np.zeros(self.vocab_size, np.int64)
        with ExitStack() as files:
            bin_file, idx_file = (
                _HashedFile(files.enter_context(Path(f"{self.prefix}.{end}").open("wb"))) for end in ("bin", "idx")
            )
            for piece in self.pieces:
                for tokens in piece.tokens(dtype, _AT_ONCE):
                    counts += np.bincount(tokens, minlength=self.vocab_size)
                    bin_file.write(tokens.tobytes())
                    count(tokens.nbytes)
            for block in _index(np.concatenate([piece.lengths() for piece in self.pieces]), dtype):
                idx_file.write(block)
            records = {"bin": bin_file.record(), "idx": idx_file.record()}
        return Joined(counts, records)


def _index(lengths: npt.NDArray[np.int32], dtype: type[np.uint16] | type[np.int32]) -> Iterator[bytes]:
    """Yield the index of sequences of ``lengths`` tokens: lengths, first bytes, and first sequences of documents."""
    yield index_header(dtype, len(lengths))
    yield lengths.tobytes()
    before = 0
    for start in range(0, len(lengths), _AT_ONCE):
        sizes = lengths[start : start + _AT_ONCE].astype(np.int64) * np.dtype(dtype).itemsize
        ends = before + np.cumsum(sizes)
        yield (ends - sizes).tobytes()
        before = int(ends[-1])
    for start in range(0, len(lengths) + 1, _AT_ONCE):
        yield np.arange(start, min(start + _AT_ONCE, len(lengths) + 1), dtype=np.int64).tobytes()


def unigram_entropy(train_counts: npt.NDArray[np.int64], validation_counts: npt.NDArray[np.int64]) -> float:
    """Return the mean of ``-ln((c[t] + 1) / (N + V))`` over validation tokens, in nats.

    Counts are ``[V]``; N is the number of training tokens.
    """
    log_share = np.log(train_counts + 1) - np.log(train_counts.sum() + train_counts.size)
    # Rounded so that another summation order, on another machine, gives the same manifest.
    return round(float(-(validation_counts * log_share).sum() / validation_counts.sum()), 6)
