"""Check that an index fits into memory before Megatron-core builds it: it would count or allocate without end."""

from __future__ import annotations

from collections.abc import Mapping

import psutil

from unipool_dist.data.corpus import Corpus
from unipool_dist.errors import DataError

MAX_EPOCHS = 1_000_000
_BYTES_PER_SAMPLE = 34
"""Two numbers that say where it begins and one for its place in the order, doubled while built; and the blend's two."""
_BYTES_PER_DOCUMENT = 12
"""Its place in the order of an epoch, and the array it is drawn from."""


def check_index_size(corpus: Corpus, sequence_length: int, samples: Mapping[str, int]) -> None:
    """Refuse an index of ``samples[domain]`` sequences that cannot be built on this machine.

    Raises:
        DataError: the index does not fit into memory, or a domain would be repeated more than ``MAX_EPOCHS`` times.
    """
    num_bytes = 0
    for name, count in samples.items():
        domain = corpus.domain(name)
        epochs = -(-count * sequence_length // domain.train_tokens)
        if epochs > MAX_EPOCHS:
            raise DataError(
                f"domain {name!r} of corpus {corpus.path} has {domain.train_tokens:,} training tokens and would be "
                f"repeated {epochs:,} times for {count:,} sequences: add text, or train for fewer steps"
            )
        num_bytes += _BYTES_PER_SAMPLE * count + _BYTES_PER_DOCUMENT * epochs * domain.train_documents
    free = psutil.virtual_memory().available
    if num_bytes > free:
        raise DataError(
            f"the index of {sum(samples.values()):,} sequences takes about {num_bytes / 1e9:,.0f} GB of memory, and "
            f"{free / 1e9:,.0f} GB are free: set data.order=computed, which needs no index, or train for fewer steps"
        )
