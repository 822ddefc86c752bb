"""A run that is made longer draws the samples it had, then new ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unipool_dist.checkpoint.randomness import seed_generators
from unipool_dist.config import load_config
from unipool_dist.data import Corpus, SampleDataset, Segment, extended, micro_batch, training_data, training_dataset
from unipool_dist.errors import ConfigError, DataError

S = 32


def all_tokens(dataset: SampleDataset) -> torch.Tensor:
    return torch.stack([dataset[i]["tokens"] for i in range(len(dataset))])


def segments_of(
    corpus: Corpus, counts: tuple[int, ...], weights: dict[str, float] | None = None
) -> tuple[Segment, ...]:
    return tuple(Segment(corpus, count, S, weights) for count in counts)


@given(st.lists(st.integers(1, 1000), max_size=5), st.integers(1, 5000))
def test_segments_are_only_ever_appended_to(counts: list[int], total: int) -> None:
    segments = tuple(counts)
    result = extended(segments, total)
    assert result[: len(segments)] == segments
    assert sum(result) == max(total, sum(segments))
    assert len(result) <= len(segments) + 1
    assert extended(result, total) == result


def test_one_segment_is_the_plain_dataset(corpus: Corpus) -> None:
    plain = training_dataset(corpus, sequence_length=S, num_samples=100, seed=5)
    data = training_data(segments_of(corpus, extended((), 100)), seed=5)
    assert len(data) == 100
    assert torch.equal(all_tokens(data), all_tokens(plain))
    for index in (-1, 100):
        with pytest.raises(IndexError):
            data[index]


def test_no_sample_changes_when_the_run_is_made_longer(corpus: Corpus) -> None:
    weights = {"alpha": 1.0, "beta": 3.0}
    segments: tuple[int, ...] = ()
    before = torch.zeros(0, S, dtype=torch.int64)
    for total in (40, 100, 100, 130):
        segments = extended(segments, total)
        now = all_tokens(training_data(segments_of(corpus, segments, weights), seed=5))
        assert len(now) == total
        assert torch.equal(now[: len(before)], before)
        before = now
    assert segments == (40, 60, 30)
    second = training_dataset(corpus, sequence_length=S, num_samples=60, seed=6, weights=weights)
    assert torch.equal(before[40:100], all_tokens(second))


def test_a_run_of_the_highest_seed_can_be_made_longer(corpus: Corpus) -> None:
    highest = load_config(None, [f"train.seed={2**32 - 1}"]).train.seed
    longer = all_tokens(training_data(segments_of(corpus, (40, 60, 30)), seed=highest))
    assert torch.equal(longer[:40], all_tokens(training_data(segments_of(corpus, (40,)), seed=highest)))
    for seed, samples in ((0, longer[40:100]), (1, longer[100:])):
        alone = training_dataset(corpus, sequence_length=S, num_samples=len(samples), seed=seed)
        assert torch.equal(samples, all_tokens(alone))
    seed_generators(highest)
    with pytest.raises(ConfigError, match=r"train\.seed=4294967296 must be a whole number from 0 to 4,294,967,295"):
        load_config(None, [f"train.seed={2**32}"])


def test_an_order_changes_with_the_number_of_samples(corpus: Corpus) -> None:
    """Or segments would not be needed."""
    short, long = (
        all_tokens(training_dataset(corpus, sequence_length=S, num_samples=n, seed=5, weights={"beta": 1.0}))
        for n in (500, 5000)
    )
    assert not torch.equal(short, long[:500])


def test_segments_already_consumed_are_not_opened(corpus: Corpus, tmp_path: Path) -> None:
    def opened(consumed: int, cache: str) -> tuple[SampleDataset, int]:
        data = training_data(
            segments_of(corpus, (40, 60, 30)),
            seed=5,
            cache_dir=tmp_path / cache,
            consumed_samples=consumed,
        )
        return data, len(list((tmp_path / cache).iterdir()))

    whole, folders = opened(39, "all")
    assert folders == 3
    rest, folders = opened(40, "rest")
    assert folders == 2 and len(rest) == 130
    assert torch.equal(rest[40]["tokens"], whole[40]["tokens"])
    batch, expected = (
        micro_batch(data, consumed_samples=98, microbatch=0, micro_batch_size=4, dp_rank=0, dp_size=1)
        for data in (rest, whole)
    )
    assert torch.equal(batch.tokens, expected.tokens), "across the border of two segments"
    with pytest.raises(AssertionError, match="sample 39 was consumed"):
        rest[39]


def test_an_empty_segment_is_an_error(corpus: Corpus) -> None:
    with pytest.raises(DataError, match="num_samples=0"):
        training_data(segments_of(corpus, (10, 0)), seed=5)


def test_segments_may_differ_in_blend_and_length(corpus: Corpus) -> None:
    segments = (Segment(corpus, 20, S, {"alpha": 1.0}), Segment(corpus, 30, 2 * S), Segment(corpus, 10, S))
    data = training_data(segments, seed=5)
    for seed, first, segment in ((5, 0, segments[0]), (6, 20, segments[1]), (7, 50, segments[2])):
        alone = training_dataset(
            corpus,
            sequence_length=segment.sequence_length,
            num_samples=segment.num_samples,
            seed=seed,
            weights=segment.weights,
        )
        for i in range(segment.num_samples):
            assert torch.equal(data[first + i]["tokens"], alone[i]["tokens"])
