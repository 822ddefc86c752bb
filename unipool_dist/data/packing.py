"""From text to token stores: Megatron-core's indexed datasets, one sequence and one document per text, ended by EOD."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unipool_dist.base.progress_bars import Progress
from unipool_dist.comm.megatron_import import import_megatron
from unipool_dist.data.corpus_manifest import Domain, store_dtype
from unipool_dist.data.spool import Spool
from unipool_dist.data.tokenizer import Tokenizer

ENCODE_BATCH = 64  # documents
MAX_SEQUENCE_TOKENS = 2**31 - 1  # the index keeps lengths as int32


def pack_domain(spool: Spool, tokenizer: Tokenizer, directory: Path, progress: Progress) -> Domain:
    """Write ``<domain>.train`` and ``<domain>.validation`` (``.bin`` and ``.idx``); return the domain's record."""
    sides = {"train": spool.split.train, "validation": spool.split.validation}
    counts = {side: _pack(spool, rows, tokenizer, directory, side, progress) for side, rows in sides.items()}
    return Domain(
        origins=spool.origins,
        train_documents=len(spool.split.train),
        validation_documents=len(spool.split.validation),
        train_bytes=spool.num_bytes(spool.split.train),
        validation_bytes=spool.num_bytes(spool.split.validation),
        train_tokens=int(counts["train"].sum()),
        validation_tokens=int(counts["validation"].sum()),
        unigram_entropy=unigram_entropy(counts["train"], counts["validation"]),
        rows=spool.rows,
    )


def _pack(
    spool: Spool, rows: list[int], tokenizer: Tokenizer, directory: Path, side: str, progress: Progress
) -> npt.NDArray[np.int64]:
    """Write the documents ``rows``; return how often each token occurs, shape ``[vocab_size]``."""
    indexed_dataset = import_megatron("datasets.indexed_dataset")
    prefix = directory / f"{spool.domain}.{side}"
    dtype = store_dtype(tokenizer.vocab_size)
    builder = indexed_dataset.IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    texts = progress.over(spool.read(rows), f"pack {spool.domain} {side}", total=len(rows), unit=" documents")
    while batch := list(islice(texts, ENCODE_BATCH)):
        for ids in tokenizer.encode_batch(batch):
            tokens = np.array([*ids, tokenizer.eod], dtype=np.int64)
            assert tokens.size <= MAX_SEQUENCE_TOKENS
            counts += np.bincount(tokens, minlength=tokenizer.vocab_size)
            builder.add_document(tokens, [tokens.size])
    builder.finalize(f"{prefix}.idx")
    return counts


def unigram_entropy(train_counts: npt.NDArray[np.int64], validation_counts: npt.NDArray[np.int64]) -> float:
    """Return the mean of ``-ln((c[t] + 1) / (N + V))`` over validation tokens, in nats.

    Counts are ``[V]``; N is the number of training tokens.
    """
    log_share = np.log(train_counts + 1) - np.log(train_counts.sum() + train_counts.size)
    # Rounded so that another summation order, on another machine, gives the same manifest.
    return round(float(-(validation_counts * log_share).sum() / validation_counts.sum()), 6)
