"""The order in which training sequences are drawn: Megatron-core's GPT datasets, one per domain, blended by weight.

Guarantee: item i depends only on the corpus, the seed, the sequence length, the number of samples and the weights; not
on the number of ranks, nor on which rank asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import Dataset

from unipool_dist.data.batches import check_tokens
from unipool_dist.data.corpus import Corpus
from unipool_dist.data.sample_index import SampleIndex
from unipool_dist.errors import DataError


class TrainingDataset(Dataset[dict[str, torch.Tensor]]):
    """``num_samples`` items with ``tokens``, ``labels`` (int64 [S]) and ``loss_mask`` (float32 [S], all ones).

    Raises:
        DataError: on reading an item with a token outside the vocabulary: the store is damaged.
    """

    def __init__(self, samples: Any, num_samples: int, corpus: Corpus) -> None:
        self._samples = samples
        self._num_samples = num_samples
        self._vocab_size = corpus.vocab_size
        self._path = corpus.path

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self._num_samples:
            raise IndexError(index)
        item = self._samples[index]
        tokens, labels = item["tokens"], item["labels"]
        check_tokens(torch.stack([tokens, labels]), self._vocab_size, f"training sample {index} of corpus {self._path}")
        return {"tokens": tokens, "labels": labels, "loss_mask": torch.ones(tokens.shape, dtype=torch.float32)}


def training_dataset(
    corpus: Corpus,
    *,
    sequence_length: int,
    num_samples: int,
    seed: int,
    weights: Mapping[str, float] | None = None,
    cache_dir: Path | None = None,
    spare_dir: Path | None = None,
) -> TrainingDataset:
    """Index ``num_samples`` training sequences; domains in proportion to ``weights``, or else to their training tokens.

    A domain that ``weights`` does not name is not drawn from; one that holds too little is repeated, reshuffled.
    Indices are kept in ``cache_dir`` (default ``<corpus>/cache``), or if that is not writable in ``spare_dir``; all
    ranks must see both. Without ``spare_dir`` it is a folder for temporary files, which no other machine sees.

    Collectives: default group, if there is one: broadcast_object_list from rank 0 once it has built the indices, then
    all_gather_object of whether every rank could read them. A failure on any rank raises on all.

    Raises:
        DataError: an argument is out of range, a weight names no domain, or the indices cannot be built or read.
    """
    shares = _shares(corpus, weights)
    for name, value in (("sequence_length", sequence_length), ("num_samples", num_samples)):
        if value < 1:
            raise DataError(f"{name}={value} is below 1: give the number wanted")
    index = SampleIndex(corpus, sequence_length, num_samples, seed, shares)
    distributed = dist.is_available() and dist.is_initialized()
    answer: list[Any] = [None, None]  # (index folder, error)
    if not distributed or dist.get_rank() == 0:
        try:
            answer[0] = index.build(cache_dir, spare_dir)
        except Exception as error:  # reported on every rank instead of leaving them to wait
            answer[1] = f"{type(error).__name__}: {error}"
    if distributed:
        dist.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise DataError(f"the training data of corpus {corpus.path} cannot be indexed: {answer[1]}; check data.path")
    dataset: TrainingDataset | None = None
    failure: str | None = None
    try:
        dataset = TrainingDataset(index.open(answer[0]), num_samples, corpus)
    except Exception as error:  # likewise: the ranks agree on it below
        failure = f"{type(error).__name__}: {error}"
    failures = [failure]
    if distributed:
        failures = [None] * dist.get_world_size()
        dist.all_gather_object(failures, failure)
    for rank, message in enumerate(failures):
        if message is not None:
            raise DataError(
                f"rank {rank} cannot read the training index in {answer[0]} ({message}): put the corpus on a file "
                f"system that all ranks share"
            )
    assert dataset is not None
    return dataset


def _shares(corpus: Corpus, weights: Mapping[str, float] | None) -> dict[str, float]:
    """Return the weights of the domains drawn from, in corpus order, summing to 1."""
    if weights is None:
        weights = {name: float(domain.train_tokens) for name, domain in corpus.domains.items()}
    for name, weight in weights.items():
        corpus.domain(name)
        if not 0 < weight < float("inf"):
            raise DataError(f"weights.{name}={weight} is not a positive number: leave the domain out to skip it")
    if not weights:
        raise DataError(f"weights={{}} names no domain: choose among {', '.join(corpus.domains)}")
    total = sum(weights.values())
    return {name: weights[name] / total for name in corpus.domains if name in weights}
