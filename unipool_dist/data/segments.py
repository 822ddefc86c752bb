"""Training data that can grow: a run that is made longer draws the samples it had, then new ones.

Megatron-core's order depends on how many samples are indexed, so the samples that a longer run needs in addition are a
segment of their own, indexed separately. A computed order simply continues. Samples of another corpus, blend or length
are a segment of their own in either. Guarantee: a sample depends only on its segment and those before it, so appending
segments changes none; a single segment is the dataset of :mod:`unipool_dist.data.sampling`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.data import Dataset

from unipool_dist.config.values import DataOrder
from unipool_dist.data.corpus import Corpus
from unipool_dist.data.sampling import TrainingDataset, blend_of, computed_dataset, training_dataset

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
    order: DataOrder = "indexed"


def extended(segments: tuple[int, ...], total: int, order: DataOrder = "indexed") -> tuple[int, ...]:
    """Return ``segments`` (sample counts) with more samples if they hold fewer than ``total``.

    They are a segment of their own if indexed, and belong to the last one if computed.
    """
    missing = total - sum(segments)
    if missing <= 0:
        return segments
    if order == "computed" and segments:
        return (*segments[:-1], segments[-1] + missing)
    return (*segments, missing)


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
    group: dist.ProcessGroup | None = None,
) -> SegmentedDataset:
    """Return the samples of all ``segments`` in this order, indexing those that need it.

    ``segments[i]`` is indexed with ``seed + i``; seeds wrap around, after the highest one comes 0. Computed segments
    all have ``seed``: in each domain they continue where earlier ones of the same length, of the corpus in the same
    place, stopped, whatever their blends. Segments that end at or before ``consumed_samples`` are neither indexed nor
    opened, and their samples cannot be read.

    Collectives, over ``group`` (gloo; default: the default group): for each segment opened, those of
    :func:`~unipool_dist.data.sampling.training_dataset` or :func:`~unipool_dist.data.sampling.computed_dataset`.

    Raises:
        DataError: an argument is out of range, a weight names no domain, or the data cannot be indexed or read.
    """
    assert segments
    datasets: list[TrainingDataset | None] = []
    # Windows by place of the corpus and length, then domain. By place, since a corpus whose stages are past is not
    # opened: of one that is in two places, the same must be known on every start.
    drawn: defaultdict[tuple[Path, int], Counter[str]] = defaultdict(Counter)
    end = 0
    for i, segment in enumerate(segments):
        end += segment.num_samples
        open_indexed = partial(training_dataset, seed=(seed + i) % NUM_SEEDS, cache_dir=cache_dir, spare_dir=spare_dir)
        before = drawn[segment.corpus.path, segment.sequence_length]
        open_computed = partial(computed_dataset, seed=seed, drawn=dict(before))
        open_data = open_computed if segment.order == "computed" else open_indexed
        datasets.append(
            open_data(
                segment.corpus,
                sequence_length=segment.sequence_length,
                num_samples=segment.num_samples,
                weights=segment.weights,
                group=group,
            )
            if end > consumed_samples
            else None
        )
        if segment.order == "computed":
            before.update(blend_of(segment.corpus, segment.weights).counts(segment.num_samples))
    return SegmentedDataset(datasets, [segment.num_samples for segment in segments])
