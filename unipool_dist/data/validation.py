"""Validation sequences of a corpus: windows of its stored tokens, one after the other, read when they are wanted."""

from __future__ import annotations

from typing import Protocol

import torch

from unipool_dist.data.batches import Batch, check_tokens, windows
from unipool_dist.data.corpus import Corpus
from unipool_dist.data.token_file import TokenFile
from unipool_dist.errors import DataError


class Rows(Protocol):
    """Sequences that can be had some at a time; a :class:`Batch` is one."""

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> Batch:
        """Return rows ``start`` to ``stop`` (exclusive, may exceed the last)."""
        ...


class StoredSequences:
    """The first ``count`` windows of a domain's validation tokens, or as many as there are; ``None``: all.

    Windows do not overlap: window i reads tokens ``i * S`` to ``(i + 1) * S`` and predicts each one's successor. The
    last may be partial, its rest filled with token 0 and a loss mask of 0. Nothing is kept in memory.

    Raises:
        DataError: unknown domain, ``sequence_length`` or ``count`` below 1, or the file cannot be opened.
    """

    def __init__(self, corpus: Corpus, domain: str, *, sequence_length: int, count: int | None) -> None:
        for name, value in (("sequence_length", sequence_length), ("count", count)):
            if value is not None and value < 1:
                raise DataError(f"{name}={value} is below 1: give the number wanted")
        self._file = TokenFile(corpus, domain, "validation")
        self._length, self._vocab_size = sequence_length, corpus.vocab_size
        there = -(-(self._file.num_tokens - 1) // sequence_length)
        self._count = there if count is None else min(count, there)

    def __len__(self) -> int:
        return self._count

    @property
    def num_predicted(self) -> int:
        """Tokens that are predicted: where the loss masks of all rows are 1."""
        return min(self._file.num_tokens - 1, self._count * self._length)

    def rows(self, start: int, stop: int) -> Batch:
        """Return windows ``start`` to ``stop`` (exclusive, may exceed the last) as a batch on the CPU.

        Raises:
            DataError: they cannot be read, or have a token outside the vocabulary.
        """
        assert 0 <= start < min(stop, self._count)
        first = start * self._length
        end = min(self._file.num_tokens, min(stop, self._count) * self._length + 1)
        stream = torch.from_numpy(self._file.read(first, end - first))
        check_tokens(stream, self._vocab_size, f"{self._file.path}")
        return windows(stream, self._length)


def validation_sequences(corpus: Corpus, domain: str, *, sequence_length: int, count: int) -> Batch:
    """Return the first ``count`` :class:`StoredSequences` of a domain, as a batch ``[n, S]`` on the CPU.

    Collectives: none.

    Raises:
        DataError: unknown domain, ``sequence_length`` or ``count`` below 1, or a token outside the vocabulary.
    """
    return StoredSequences(corpus, domain, sequence_length=sequence_length, count=count).rows(0, count)
