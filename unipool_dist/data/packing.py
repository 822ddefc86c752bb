"""From text to tokens: runs of documents, each tokenized by itself into a file of its own.

A run depends on the text alone, not on who tokenizes it, and its file is named by its content: the tokenizer and the
documents in it. So what was tokenized before an interruption is found again.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unipool_dist.base.progress_bars import Count
from unipool_dist.base.reading import open_regular
from unipool_dist.base.writing import replacing
from unipool_dist.data.corpus_manifest import store_dtype
from unipool_dist.data.keys import Rows
from unipool_dist.data.spool import Spool
from unipool_dist.data.texts import Places
from unipool_dist.data.tokenizer import Tokenizer, TokenizerKind, load_tokenizer

MAX_SEQUENCE_TOKENS = 2**31 - 1
"""The index of a token store keeps lengths as int32."""
_SMALLEST_RUN, _LARGEST_RUN = 1 << 20, 64 << 20
_RUNS = 256
"""Runs of a domain, as far as the sizes above allow."""
_HEAD = struct.Struct("<QQ")  # documents, tokens

TokenType = type[np.uint16] | type[np.int32]


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer by its files, as a worker process loads it."""

    kind: TokenizerKind
    directory: Path
    sha256: str

    def load(self) -> Tokenizer:
        """Return the tokenizer; one process loads it once."""
        return _loaded(self)


@lru_cache(maxsize=1)
def _loaded(files: TokenizerFiles) -> Tokenizer:
    return load_tokenizer(files.kind, files.directory, files.sha256)


@dataclass(frozen=True)
class TokenPiece:
    """The tokens of a run of documents: their number and that of tokens, the lengths as int32, the tokens."""

    path: Path

    def exists(self, num_documents: int, dtype: TokenType) -> bool:
        """Return whether the file is there and whole."""
        try:
            with open_regular(self.path) as file:
                documents, tokens = _HEAD.unpack(file.read(_HEAD.size))
            size = _HEAD.size + 4 * documents + np.dtype(dtype).itemsize * tokens
            return bool(documents == num_documents and self.path.stat().st_size == size)
        except (OSError, ValueError, struct.error):
            return False

    def lengths(self) -> npt.NDArray[np.int32]:
        """Return the number of tokens of each document."""
        with open_regular(self.path) as file:
            documents, _ = _HEAD.unpack(file.read(_HEAD.size))
            return np.frombuffer(file.read(4 * documents), np.int32)

    def tokens(self, dtype: TokenType, at_once: int) -> Iterator[npt.NDArray[np.generic]]:
        """Yield the tokens, ``at_once`` at a time."""
        with open_regular(self.path) as file:
            documents, _ = _HEAD.unpack(file.read(_HEAD.size))
            file.seek(_HEAD.size + 4 * documents)
            while data := file.read(at_once * np.dtype(dtype).itemsize):
                yield np.frombuffer(data, dtype)


@dataclass(frozen=True)
class TokenizeRun:
    """Task: write the tokens of documents, each ended by the end-of-document token, into a piece."""

    tokenizer: TokenizerFiles
    texts: Places
    piece: TokenPiece

    def is_done(self, dtype: TokenType) -> bool:
        """Return whether the piece is there, for tokens of this type."""
        return self.piece.exists(len(self.texts.sizes), dtype)

    def run(self, count: Count) -> None:
        """Write the piece; ``count`` gets bytes of text."""
        tokenizer = self.tokenizer.load()
        dtype = store_dtype(tokenizer.vocab_size)
        documents: list[npt.NDArray[np.generic]] = []
        for text, size in zip(self.texts.read(), self.texts.sizes, strict=True):
            (ids,) = tokenizer.encode_batch([text])  # by itself: a batch would be spread over threads
            assert len(ids) < MAX_SEQUENCE_TOKENS
            documents.append(np.array([*ids, tokenizer.eod], dtype))
            count(int(size))
        lengths = np.array([len(tokens) for tokens in documents], np.int32)
        with replacing(self.piece.path) as file:
            file.write(_HEAD.pack(len(lengths), int(lengths.sum(dtype=np.int64))))
            file.write(lengths.tobytes())
            for tokens in documents:
                file.write(tokens.tobytes())


def runs_of(sizes: Rows) -> list[slice]:
    """Cut documents of ``sizes`` bytes into consecutive runs of about equal bytes, which depend on the sizes alone."""
    if not len(sizes):
        return []
    ends = np.cumsum(sizes)
    wanted = min(max(int(ends[-1]) // _RUNS, _SMALLEST_RUN), _LARGEST_RUN)
    # A run ends with the document in which it reaches its size.
    stops = np.unique(np.append(np.searchsorted(ends, np.arange(wanted, ends[-1], wanted)) + 1, len(sizes)))
    return [slice(int(start), int(stop)) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]


def tokenize_runs(spool: Spool, rows: Rows, tokenizer: TokenizerFiles, folder: Path) -> list[TokenizeRun]:
    """Return the tasks whose pieces, one after the other, are the tokens of the documents ``rows``."""
    keys = spool.texts.keys
    tasks = []
    for run in runs_of(keys.sizes[rows]):
        some = rows[run]
        name = hashlib.sha256(tokenizer.sha256.encode() + keys.digests[some].tobytes()).hexdigest()[:24]
        tasks.append(TokenizeRun(tokenizer, spool.texts.places(some), TokenPiece(folder / f"{name}.tokens")))
    return tasks
