"""The order in which training sequences are drawn: indexed beforehand, or computed when they are wanted.

``indexed`` is that of Megatron-core's GPT datasets, one per domain, blended by weight: an index of all documents and
samples is built and kept (:mod:`unipool_dist.data.sample_index`). ``computed`` needs none
(:mod:`unipool_dist.data.computed_order`). Guarantee: item i depends only on the corpus, the seed, the sequence length
and the weights, and if indexed on the number of samples; not on the number of ranks, nor on which rank asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.utils.data import Dataset

from unipool_dist.comm.agreement import on_rank_0
from unipool_dist.data.batches import check_tokens
from unipool_dist.data.blend import Blend
from unipool_dist.data.computed_order import ComputedSamples
from unipool_dist.data.corpus import Corpus
from unipool_dist.data.sample_index import SampleIndex
from unipool_dist.errors import DataError

T = TypeVar("T")


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
    group: dist.ProcessGroup | None = None,
) -> TrainingDataset:
    """Index ``num_samples`` training sequences; domains in proportion to ``weights``, or else to their training tokens.

    A domain that ``weights`` does not name is not drawn from; one that holds too little is repeated, reshuffled.
    Indices are kept in ``cache_dir`` (default ``<corpus>/cache``), or if that is not writable in ``spare_dir``; all
    ranks must see both. Without ``spare_dir`` it is a folder for temporary files, which no other machine sees.

    Collectives, over ``group`` (gloo; default: the default group), if there are several processes: those of
    :func:`~unipool_dist.comm.agreement.on_rank_0` while rank 0 builds the indices, however long that takes;
    broadcast_object_list of the result; then all_gather_object of whether every rank could read them. A failure on any
    rank raises on all.

    Raises:
        DataError: an argument is out of range, a weight names no domain, or the indices cannot be built or read.
    """
    chosen = _weights(corpus, weights)
    _check_sizes(sequence_length, num_samples)
    total = sum(chosen.values())
    shares = {name: weight / total for name, weight in chosen.items()}
    index = SampleIndex(corpus, sequence_length, num_samples, seed, shares)

    def build() -> tuple[str, str | None]:
        try:
            return index.build(cache_dir, spare_dir), None
        except Exception as error:  # reported on every rank instead of leaving them to wait
            return "", f"{type(error).__name__}: {error}"

    folder, failure = _from_rank_0(build, group)
    if failure is not None:
        raise DataError(f"the training data of corpus {corpus.path} cannot be indexed: {failure}; check data.path")
    return _open_together(
        lambda: TrainingDataset(index.open(folder), num_samples, corpus),
        f"cannot read the training index in {folder}",
        group,
    )


def computed_dataset(
    corpus: Corpus,
    *,
    sequence_length: int,
    num_samples: int,
    seed: int,
    weights: Mapping[str, float] | None = None,
    drawn: Mapping[str, int] | None = None,
    group: dist.ProcessGroup | None = None,
) -> TrainingDataset:
    """Open ``num_samples`` training sequences in computed order; ``weights`` are those of :func:`training_dataset`.

    Args:
        drawn: windows of each domain that earlier samples have drawn, so that these follow on them.

    Collectives, over ``group`` (default: the default group), if there are several processes: all_gather_object of
    whether every rank could open the files. A failure on any rank raises on all.

    Raises:
        DataError: an argument is out of range, a weight names no domain, or a domain is too short or cannot be read.
    """
    blend = blend_of(corpus, weights)
    _check_sizes(sequence_length, num_samples)

    def open_samples() -> TrainingDataset:
        samples = ComputedSamples(corpus, blend, sequence_length=sequence_length, seed=seed, drawn=drawn or {})
        return TrainingDataset(samples, num_samples, corpus)

    return _open_together(open_samples, "cannot open the training data", group)


def blend_of(corpus: Corpus, weights: Mapping[str, float] | None) -> Blend:
    """Return the blend of the domains by ``weights``, or else by their training tokens.

    Raises:
        DataError: a weight is not positive, or names no domain.
    """
    return Blend(_weights(corpus, weights))


def _from_rank_0(
    build: Callable[[], tuple[str, str | None]], group: dist.ProcessGroup | None
) -> tuple[str, str | None]:
    """Return on every rank what ``build`` returned on rank 0. Collectives: see :func:`training_dataset`."""
    if not (dist.is_available() and dist.is_initialized()):
        return build()
    group = group or dist.group.WORLD
    assert group is not None
    built = [on_rank_0("indexing the training data", build, group)]
    dist.broadcast_object_list(built, group=group, group_src=0)
    assert built[0] is not None
    return built[0]


def _open_together(open_data: Callable[[], T], doing: str, group: dist.ProcessGroup | None) -> T:
    """Return what ``open_data`` returns, or raise on every rank what failed on one. Collectives: all_gather_object."""
    opened: list[T] = []
    failure: str | None = None
    try:
        opened.append(open_data())
    except Exception as error:  # whatever it is, the ranks agree on it below
        failure = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
    failures = [failure]
    if dist.is_available() and dist.is_initialized():
        failures = [None] * dist.get_world_size(group)
        dist.all_gather_object(failures, failure, group)
    for rank, message in enumerate(failures):
        if message is not None:
            raise DataError(f"rank {rank} {doing} ({message}): put the corpus on a file system that all ranks share")
    return opened[0]


def _weights(corpus: Corpus, weights: Mapping[str, float] | None) -> dict[str, float]:
    """Return the weights of the domains drawn from, in corpus order.

    Raises:
        DataError: one is not positive, or names no domain, or there is none.
    """
    if weights is None:
        weights = {name: float(domain.train_tokens) for name, domain in corpus.domains.items()}
    for name, weight in weights.items():
        corpus.domain(name)
        if not 0 < weight < float("inf"):
            raise DataError(f"weights.{name}={weight} is not a positive number: leave the domain out to skip it")
    if not weights:
        raise DataError(f"weights={{}} names no domain: choose among {', '.join(corpus.domains)}")
    return {name: weights[name] for name in corpus.domains if name in weights}


def _check_sizes(sequence_length: int, num_samples: int) -> None:
    for name, value in (("sequence_length", sequence_length), ("num_samples", num_samples)):
        if value < 1:
            raise DataError(f"{name}={value} is below 1: give the number wanted")
