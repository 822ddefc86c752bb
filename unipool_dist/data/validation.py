"""Validation sequences of one domain: the same for every run, rank and layout."""

from __future__ import annotations

import numpy as np
import torch

from unipool_dist.data.batches import Batch, check_tokens
from unipool_dist.data.corpus import Corpus
from unipool_dist.data.manifest import store_dtype
from unipool_dist.errors import DataError


def validation_sequences(corpus: Corpus, domain: str, *, sequence_length: int, count: int) -> Batch:
    """Return the first ``count`` windows of the domain's validation tokens, as a batch ``[n, S]`` on the CPU.

    Windows do not overlap: window i reads tokens ``i * S`` to ``(i + 1) * S`` and predicts each one's successor. ``n``
    is ``count``, or as many as there are; the last may be partial, its rest filled with token 0 and a loss mask of 0.
    Collectives: none.

    Raises:
        DataError: unknown domain, ``sequence_length`` or ``count`` below 1, or a token outside the vocabulary.
    """
    for name, value in (("sequence_length", sequence_length), ("count", count)):
        if value < 1:
            raise DataError(f"{name}={value} is below 1: give the number wanted")
    path = corpus.prefix(domain, "validation").with_suffix(".validation.bin")
    stored = corpus.domain(domain).validation_tokens
    used = min(stored, count * sequence_length + 1)
    store = np.memmap(path, dtype=store_dtype(corpus.vocab_size), mode="r", shape=(stored,))
    stream = torch.from_numpy(store[:used].astype(np.int64))
    check_tokens(stream, corpus.vocab_size, f"{path}")
    predicted = used - 1
    rows = -(-predicted // sequence_length)
    tokens, labels = torch.zeros(2, rows * sequence_length, dtype=torch.int64)
    loss_mask = torch.zeros(rows * sequence_length)
    tokens[:predicted], labels[:predicted], loss_mask[:predicted] = stream[:-1], stream[1:], 1.0
    shape = (rows, sequence_length)
    return Batch(tokens.view(shape), labels.view(shape), loss_mask.view(shape))
