"""The index of a token store (Megatron-core's ``.idx``): its form, and its check before Megatron-core opens it.

Megatron-core trusts it: with a negative length it counts without end, and a pointer may lead outside the tokens.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Literal

import numpy as np

from unipool_dist.base.reading import open_regular
from unipool_dist.data.corpus import Corpus
from unipool_dist.data.corpus_manifest import store_dtype
from unipool_dist.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")  # magic, version, type of a token, sequences, documents + 1
_TYPE_CODES = {np.uint16: 8, np.int32: 4}


def index_header(dtype: type[np.uint16] | type[np.int32], num_sequences: int) -> bytes:
    """Return the beginning of the index of a store in which every sequence is a document."""
    return HEADER.pack(MAGIC, 1, _TYPE_CODES[dtype], num_sequences, num_sequences + 1)


def check_token_store(corpus: Corpus, domain: str, split: Literal["train", "validation"]) -> None:
    """Refuse a token store whose index does not describe its tokens: consecutive sequences, none empty.

    Raises:
        DataError: it cannot be read or does not; the message names the file.
    """
    path = Path(f"{corpus.prefix(domain, split)}.idx")
    try:
        fault = _fault(path, corpus, domain, split)
    except (OSError, ValueError, struct.error) as error:
        fault = f"cannot be read ({error})"
    if fault:
        raise DataError(f"corpus file {path} {fault}: prepare the corpus again, or have it copied again")


def _fault(path: Path, corpus: Corpus, domain: str, split: Literal["train", "validation"]) -> str | None:
    record = corpus.domain(domain)
    documents = record.train_documents if split == "train" else record.validation_documents
    tokens = record.train_tokens if split == "train" else record.validation_tokens
    dtype = store_dtype(corpus.vocab_size)
    with open_regular(path) as file:
        magic, version, code, sequences, ends = HEADER.unpack(file.read(HEADER.size))
        if (magic, version) != (MAGIC, 1):
            return "is not an index of tokens"
        if code != _TYPE_CODES[dtype]:
            return f"holds tokens of another type than a vocabulary of {corpus.vocab_size:,} has"
        if (sequences, ends) != (documents, documents + 1):
            return f"has {sequences:,} sequences instead of the {documents:,} documents in the manifest"
        data = np.memmap(file, mode="r")
    if data.size != HEADER.size + 12 * sequences + 8 * ends:
        return f"has {data.size:,} bytes, which do not fit {sequences:,} sequences"
    lengths = np.frombuffer(data, np.int32, sequences, HEADER.size)
    pointers = np.frombuffer(data, np.int64, sequences, HEADER.size + lengths.nbytes)
    borders = np.frombuffer(data, np.int64, ends, HEADER.size + lengths.nbytes + pointers.nbytes)
    if lengths.min() < 1:
        return f"has a sequence of {lengths.min()} tokens"
    stops = np.cumsum(lengths, dtype=np.int64)
    if stops[-1] != tokens:
        return f"covers {stops[-1]:,} tokens instead of the {tokens:,} in the manifest"
    starts = (stops - lengths) * np.dtype(dtype).itemsize
    if not np.array_equal(pointers, starts) or not np.array_equal(borders, np.arange(ends)):
        return "has sequences that do not follow one another"
    return None
