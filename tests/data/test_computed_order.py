"""The computed order: every window once an epoch, from the place where it is, for any size of corpus."""

from __future__ import annotations

import os
import shutil
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.huge import TRAIN_TOKENS, enlarge, mark
from unipool_dist.data import Corpus, SampleDataset, Segment, StoredSequences, extended, micro_batch, training_data
from unipool_dist.data.sampling import blend_of, computed_dataset
from unipool_dist.data.segments import SegmentedDataset
from unipool_dist.errors import DataError

S = 32


def dataset(
    corpus: Corpus, num_samples: int, weights: dict[str, float] | None = None, length: int = S, seed: int = 5
) -> SampleDataset:
    return computed_dataset(corpus, sequence_length=length, num_samples=num_samples, seed=seed, weights=weights)


def rows(data: SampleDataset) -> list[tuple[int, ...]]:
    """Tokens and the last label of each sample."""
    return [(*data[i]["tokens"].tolist(), int(data[i]["labels"][-1])) for i in range(len(data))]


def stream_of(corpus: Corpus, domain: str) -> list[int]:
    return [int(token) for token in np.fromfile(corpus.path / f"{domain}.train.bin", dtype=np.uint16)]


def test_an_epoch_holds_every_window_once_and_the_next_is_another(corpus: Corpus) -> None:
    stream = stream_of(corpus, "beta")
    per_epoch, rest = divmod(len(stream) - 1, S)
    drawn = rows(dataset(corpus, 3 * per_epoch, {"beta": 1.0}))
    starts = []
    for epoch in range(3):
        windows = drawn[epoch * per_epoch : (epoch + 1) * per_epoch]
        matching = [
            first
            for first in range(rest + 1)
            if Counter(windows)
            == Counter(tuple(stream[first + i * S : first + i * S + S + 1]) for i in range(per_epoch))
        ]
        assert len(matching) == 1
        starts += matching
    assert len(set(starts)) > 1, "what is left out at the ends of the text differs by epoch"
    assert drawn[:per_epoch] != drawn[per_epoch : 2 * per_epoch]


def test_labels_are_the_following_tokens(corpus: Corpus) -> None:
    item = dataset(corpus, 10)[3]
    assert {key: (value.dtype, tuple(value.shape)) for key, value in item.items()} == {
        "tokens": (torch.int64, (S,)),
        "labels": (torch.int64, (S,)),
        "loss_mask": (torch.float32, (S,)),
    }
    assert torch.equal(item["tokens"][1:], item["labels"][:-1])


def test_it_depends_on_seed_and_length_and_not_on_the_number_of_samples(corpus: Corpus) -> None:
    drawn = rows(dataset(corpus, 200))
    assert rows(dataset(corpus, 50)) == drawn[:50]
    assert rows(dataset(corpus, 200, seed=6)) != drawn
    assert rows(dataset(corpus, 200, length=S // 2)) != [row[: S // 2 + 1] for row in drawn]


def test_domains_are_blended_by_weight(corpus: Corpus) -> None:
    streams = {name: bytes(np.array(stream_of(corpus, name), dtype=np.uint16)) for name in corpus.domains}
    for weights in (None, {"alpha": 1.0, "beta": 3.0}):
        blend = blend_of(corpus, weights)
        for i, row in enumerate(rows(dataset(corpus, 60, weights))):
            assert bytes(np.array(row, dtype=np.uint16)) in streams[blend.place(i)[0]]


def test_a_longer_run_continues_the_same_order(corpus: Corpus) -> None:
    segments = extended(extended((), 40, "computed"), 100, "computed")
    assert segments == (100,)
    assert extended((), 40, "computed") == (40,) and extended((40,), 30, "computed") == (40,)


def of(corpus: Corpus, *parts: tuple[int, dict[str, float]], consumed: int = 0) -> SegmentedDataset:
    segments = [Segment(corpus, count, S, weights, "computed") for count, weights in parts]
    return training_data(segments, seed=5, consumed_samples=consumed)


def test_another_blend_continues_every_domain_where_it_was(corpus: Corpus) -> None:
    both, beta = {"alpha": 1.0, "beta": 1.0}, {"beta": 1.0}
    data = of(corpus, (40, both), (30, beta), (20, both))
    alone = rows(dataset(corpus, 60, beta))
    assert rows(data)[40:70] == alone[20:50]
    assert [row for row in rows(data)[70:] if row in alone] == alone[50:60]
    resumed = of(corpus, (40, both), (30, beta), (20, both), consumed=70)
    assert torch.equal(resumed[71]["tokens"], data[71]["tokens"])
    with pytest.raises(AssertionError, match="sample 69 was consumed"):
        resumed[69]


def test_nothing_is_written(corpus_dir: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(corpus_dir, tmp_path / "copy", ignore=shutil.ignore_patterns("cache")))
    before = sorted(path.iterdir())
    rows(dataset(Corpus.open(path), 20))
    assert sorted(path.iterdir()) == before


def test_a_domain_shorter_than_a_sequence_is_an_error(corpus: Corpus) -> None:
    tokens = corpus.domain("beta").train_tokens
    assert len(rows(dataset(corpus, 3, {"beta": 1.0}, length=tokens - 1))) == 3
    with pytest.raises(DataError, match=r"domain 'beta' of corpus .* has .* training tokens, and with data\.order="):
        dataset(corpus, 3, {"beta": 1.0}, length=tokens)


def test_what_cannot_be_read_is_an_error_that_names_the_place(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(corpus_dir, tmp_path / "copy", ignore=shutil.ignore_patterns("cache")))
    data = dataset(Corpus.open(path), 10, {"beta": 1.0})

    def third() -> None:
        micro_batch(data, consumed_samples=2, microbatch=0, micro_batch_size=1, dp_rank=0, dp_size=1)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", lambda *arguments: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(DataError, match=r"training sample 2, of domain 'beta': bytes .*beta\.train\.bin .*Errno 5"):
            third()
    os.truncate(path / "beta.train.bin", 10)
    with pytest.raises(DataError, match=r"training sample 2, of domain 'beta': .*it ends at byte"):
        third()
    with pytest.raises(DataError, match=r"has 10 bytes"):
        dataset(Corpus(path, Corpus.open(corpus_dir).manifest), 10, {"beta": 1.0})
    (path / "beta.train.bin").write_bytes(b"\xff" * (corpus_dir / "beta.train.bin").stat().st_size)
    with pytest.raises(DataError, match="token 65535, outside vocab_size=400"):
        third()


def test_a_corpus_of_a_trillion_tokens_opens_and_resumes_at_once(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    length, last = 4096, TRAIN_TOKENS // 4096 - 1000
    started = time.perf_counter()
    tracemalloc.start()
    corpus = enlarge(corpus_dir, tmp_path / "huge")
    assert sum(file.stat().st_blocks for file in corpus.path.iterdir()) * 512 < 50e6, "the files are sparse"
    name = next(iter(corpus.domains))
    samples, weights = TRAIN_TOKENS // length, {name: 1.0}
    data = training_data([Segment(corpus, samples, length, weights, "computed")], seed=1, consumed_samples=last)
    validation = StoredSequences(corpus, name, sequence_length=length, count=None)
    assert len(validation.rows(len(validation) - 2, len(validation))) == 2
    batch = micro_batch(data, consumed_samples=last, microbatch=0, micro_batch_size=4, dp_rank=0, dp_size=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batch.tokens.shape == (4, length)
    assert time.perf_counter() - started < 60
    assert peak < 100e6, "four bytes for each sample alone would be 1 GB"
    places: list[int] = []
    read = os.pread

    def recorded(file: int, count: int, place: int) -> bytes:
        places.append(place // 2)
        return read(file, count, place)

    monkeypatch.setattr(os, "pread", recorded)
    for i in range(100):
        assert not data[last + i]["tokens"].any()
        mark(corpus, name, places[-1], [7, *[0] * (length - 2), 8, 9])
        item = data[last + i]
        assert item["tokens"].nonzero().flatten().tolist() == [0, length - 1]
        assert item["labels"][-2:].tolist() == [8, 9]
    assert len(set(places)) == 100 and max(places) > 0.9 * TRAIN_TOKENS


def test_an_index_of_a_trillion_tokens_is_refused_with_the_way_out(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = enlarge(corpus_dir, tmp_path / "huge")
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 8 << 30})())
    with pytest.raises(DataError, match=r"takes about .* GB of memory.*set data\.order=computed"):
        training_data([Segment(corpus, 1000, 4096)], seed=1, cache_dir=tmp_path / "cache")
