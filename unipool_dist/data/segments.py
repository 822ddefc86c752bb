"""Training data that can grow: a run that is made longer draws the samples it had, then new ones.

Megatron-core's order depends on how many samples are indexed, so the samples that a longer run needs in addition are a
segment of their own, indexed separately. So are samples of another corpus, blend or length. Guarantee: a sample depends
only on its segment and that segment's position, so appending segments changes none; a single segment is
:func:`unipool_dist.data.sampling.training_dataset`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch.utils.data import Dataset

from unipool_dist.data.corpus import Corpus
from unipool_dist.data.sampling import TrainingDataset, training_dataset

NUM_SEEDS = 2**32
"""Number of seeds: Megatron-core shuffles with a RandomState of numpy, which takes no others."""


@dataclass(frozen=True)
class Segment:
    """Consecutive samples of a run that are drawn in one way."""

    corpus: Corpus
    num_samples: int
    sequence_length: int
    weights: Mapping[str, float] | None = None
    """Sampling weight by domain; ``None``: training tokens."""


def extended(segments: tuple[int, ...], total: int) -> tuple[int, ...]:
    """Return ``segments`` (sample counts), with one more appended if they hold fewer than ``total`` samples."""
    missing = total - sum(segments)
    return segments if missing <= 0 else (*segments, missing)


def index_bytes(corpus: Corpus, sequence_length: int, num_samples: int) -> int:
    """Return the least number of bytes of the indices of ``num_samples`` training sequences during their build.

    Megatron-core has a number of 4 bytes for each document of each epoch, three of them for each sample.
    """
    domains = corpus.domains.values()
    tokens = sum(domain.train_tokens for domain in domains)
    epochs = num_samples * sequence_length // max(1, tokens)
    return 4 * epochs * sum(domain.train_documents for domain in domains) + 12 * num_samples


class SegmentedDataset(Dataset[dict[str, torch.Tensor]]):
    """The concatenated samples of ``segments``; those of a segment that is not open cannot be read."""

    def __init__(self, datasets: Sequence[TrainingDataset | None], segments: Sequence[int]) -> None:
        assert len(datasets) == len(segments)
        self._datasets = datasets
        self._ends = list(accumulate(segments))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        segment = bisect_right(self._ends, index)
        dataset = self._datasets[segment]
        assert dataset is not None, f"sample {index} was consumed before the data was opened"
        return dataset[index - (self._ends[segment] - len(dataset))]


def training_data(
    segments: Sequence[Segment],
    *,
    seed: int,
    cache_dir: Path | None = None,
    spare_dir: Path | None = None,
    consumed_samples: int = 0,
) -> SegmentedDataset:
    """Index ``segments[i]`` with ``seed + i`` for each i; return the dataset of all their samples, in this order.

    Seeds wrap around: after the highest one comes 0. Segments that end at or before ``consumed_samples`` are neither
    indexed nor opened, and their samples cannot be read.

    Collectives: those of :func:`unipool_dist.data.sampling.training_dataset`, for each segment opened.

    Raises:
        DataError: an argument is out of range, a weight names no domain, or the indices cannot be built or read.
    """
    assert segments
    counts = [segment.num_samples for segment in segments]
    datasets = [
        training_dataset(
            segment.corpus,
            sequence_length=segment.sequence_length,
            num_samples=segment.num_samples,
            seed=(seed + i) % NUM_SEEDS,
            weights=segment.weights,
            cache_dir=cache_dir,
            spare_dir=spare_dir,
        )
        if end > consumed_samples
        else None
        for i, (segment, end) in enumerate(zip(segments, accumulate(counts), strict=True))
    ]
    return SegmentedDataset(datasets, counts)
