"""Tokens that another program has prepared: Megatron's ``.bin`` and ``.idx``, checked before anything is believed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unipool_dist.base.reading import open_regular
from unipool_dist.data.keys import Keys, Rows
from unipool_dist.data.packing import MAX_SEQUENCE_TOKENS, TokenType
from unipool_dist.data.token_store import HEADER, MAGIC
from unipool_dist.errors import DataError

_TYPES: dict[int, type[np.integer[Any]]] = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    8: np.uint16,
}
"""Types of a token by their code in the index; the others are no integers."""
_CHUNK = 1 << 24  # tokens looked at together
_KEYS = 1 << 16  # documents


@dataclass(frozen=True)
class ForeignStore:
    """A store of tokens and its documents: document i has the tokens ``starts[i]`` to ``stops[i]``, without its end.

    A document is what the index calls one, cut where an end of a document is inside it. None is empty.
    """

    path: Path
    tokens: npt.NDArray[np.integer]  # [n], a map of the file
    starts: npt.NDArray[np.int64]  # [documents]
    stops: npt.NDArray[np.int64]  # [documents]

    def __len__(self) -> int:
        return len(self.starts)

    def document(self, row: int) -> npt.NDArray[np.integer]:
        """Return the tokens of a document, without its end."""
        return self.tokens[self.starts[row] : self.stops[row]]

    def keys(self) -> Keys:
        """Return the hash and the size of every document, of its tokens as 32-bit integers."""
        blocks = (range(start, min(start + _KEYS, len(self))) for start in range(0, len(self), _KEYS))
        return Keys.joined([Keys.of(self.document(row).astype("<u4").tobytes() for row in rows) for rows in blocks])


@dataclass(frozen=True)
class AdoptedDocuments:
    """Some documents of a store, each ended by ``eod``: one piece of a token store."""

    store: ForeignStore
    rows: Rows
    eod: int

    def lengths(self) -> npt.NDArray[np.int32]:
        """Return the number of tokens of each document.

        Raises:
            DataError: one is longer than an index can say.
        """
        lengths = self.store.stops[self.rows] - self.store.starts[self.rows] + 1
        if lengths.max() > MAX_SEQUENCE_TOKENS:
            raise DataError(
                f"{self.store.path} has a document of {lengths.max():,} tokens: cut it, as an index keeps no more than "
                f"{MAX_SEQUENCE_TOKENS:,} of one"
            )
        return lengths.astype(np.int32)

    def tokens(self, dtype: TokenType, at_once: int) -> Iterator[npt.NDArray[np.generic]]:
        """Yield the tokens, about ``at_once`` at a time."""
        waiting: list[npt.NDArray[np.generic]] = []
        end = np.array([self.eod], dtype)
        num_waiting = 0
        for row in self.rows.tolist():
            document = self.store.document(row)
            for start in range(0, len(document), at_once):
                waiting.append(document[start : start + at_once].astype(dtype))
                num_waiting += len(waiting[-1])
                if num_waiting >= at_once:
                    yield np.concatenate(waiting)
                    waiting, num_waiting = [], 0
            waiting.append(end)
        if waiting:
            yield np.concatenate(waiting)


def store_files(prefix: Path) -> tuple[Path, Path]:
    """Return the ``.bin`` and ``.idx`` of a store that is named by either of them, or by what they have in common."""
    stem = prefix.with_suffix("") if prefix.suffix in (".bin", ".idx") else prefix
    return stem.with_name(stem.name + ".bin"), stem.with_name(stem.name + ".idx")


def open_foreign_store(prefix: Path, vocab_size: int, eod: int) -> ForeignStore:
    """Open the store at ``prefix``; every token is looked at.

    Raises:
        DataError: a file is missing, the index does not describe the tokens one sequence after the other, or a token is
            outside the vocabulary; the message names the file.
    """
    data, index = store_files(prefix)
    try:
        dtype, lengths, borders = _read_index(index)
        tokens = _tokens(data, dtype, int(lengths.sum(dtype=np.int64)))
    except (OSError, ValueError, struct.error) as error:
        raise DataError(f"{prefix}: the tokens cannot be adopted: {error}") from None
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[borders]
    inner = _ends_inside(data, tokens, vocab_size, eod)
    # Cut at the borders and around every end. The pieces follow one another, so the i-th start has the i-th stop.
    starts = np.sort(np.concatenate([ends[:-1], inner + 1]))
    stops = np.sort(np.concatenate([ends[1:], inner]))
    filled = starts < stops
    return ForeignStore(data, tokens, starts[filled], stops[filled])


def _read_index(path: Path) -> tuple[type[np.integer], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return the type of a token, the length of every sequence, and the sequence with which each document begins.

    Raises:
        OSError, ValueError: there is no such index; the message names the file.
    """
    with open_regular(path) as file:
        magic, version, code, sequences, ends = HEADER.unpack(file.read(HEADER.size))
        if (magic, version) != (MAGIC, 1):
            raise ValueError(f"{path} is not an index of tokens")
        if code not in _TYPES:
            raise ValueError(f"{path} says that its tokens are of type {code}, which is not a type of integers")
        data = np.memmap(file, mode="r")
    if sequences < 1 or ends < 2 or data.size != HEADER.size + 12 * sequences + 8 * ends:
        raise ValueError(f"{path} has {data.size:,} bytes, which do not fit {sequences:,} sequences of text")
    lengths = np.frombuffer(data, np.int32, sequences, HEADER.size)
    pointers = np.frombuffer(data, np.int64, sequences, HEADER.size + lengths.nbytes)
    borders = np.frombuffer(data, np.int64, ends, HEADER.size + lengths.nbytes + pointers.nbytes)
    if lengths.min() < 0:
        raise ValueError(f"{path} has a sequence of {lengths.min()} tokens")
    if borders[0] != 0 or borders[-1] != sequences or (np.diff(borders) < 0).any():
        raise ValueError(f"{path} has documents that do not follow one another")
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    if not np.array_equal(pointers, starts * np.dtype(_TYPES[code]).itemsize):
        raise ValueError(f"{path} has sequences that do not follow one another")
    return _TYPES[code], lengths, borders


def _tokens(path: Path, dtype: type[np.integer], count: int) -> npt.NDArray[np.integer]:
    """Map the tokens.

    Raises:
        OSError, ValueError: they are missing, or not ``count``.
    """
    with open_regular(path) as file:
        num_bytes = path.stat().st_size
        if num_bytes != count * np.dtype(dtype).itemsize or not count:
            raise ValueError(f"{path} has {num_bytes:,} bytes instead of the {count:,} tokens of its index")
        return np.memmap(file, dtype=dtype, mode="r")


def _ends_inside(path: Path, tokens: npt.NDArray[np.integer], vocab_size: int, eod: int) -> npt.NDArray[np.int64]:
    """Return where the token ``eod`` is.

    Raises:
        DataError: a token is outside the vocabulary.
    """
    found = [np.empty(0, np.int64)]
    for start in range(0, len(tokens), _CHUNK):
        chunk = tokens[start : start + _CHUNK]
        if chunk.min() < 0 or chunk.max() >= vocab_size:
            at = int(np.flatnonzero((chunk < 0) | (chunk >= vocab_size))[0])
            raise DataError(
                f"token {start + at:,} of {path} is {chunk[at]}, outside the vocabulary of {vocab_size:,} of "
                f"--tokenizer: give the tokenizer that made the tokens"
            )
        found.append(np.flatnonzero(chunk == eod) + start)
    return np.concatenate(found)
