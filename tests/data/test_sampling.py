"""Which tokens a training step sees, in which order, on which rank."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from unipool_dist.data import (
    Batch,
    Corpus,
    SampleDataset,
    StoredSequences,
    TrainingDataset,
    micro_batch,
    training_dataset,
    validation_sequences,
)
from unipool_dist.data import sample_index as sample_index_module
from unipool_dist.data.index_files import RECORD, seal
from unipool_dist.data.sample_index import SampleIndex
from unipool_dist.errors import DataError

S = 32


def all_tokens(dataset: TrainingDataset) -> torch.Tensor:
    return torch.stack([dataset[i]["tokens"] for i in range(len(dataset))])


def stream_of(corpus: Corpus, domain: str, split: str) -> np.ndarray:
    return np.fromfile(corpus.path / f"{domain}.{split}.bin", dtype=np.uint16).astype(np.int64)


def test_items_are_shifted_windows_of_the_training_text(corpus: Corpus) -> None:
    dataset = training_dataset(corpus, sequence_length=S, num_samples=200, seed=5)
    assert len(dataset) == 200
    known = {
        tuple(d)
        for name in corpus.domains
        for d in np.lib.stride_tricks.sliding_window_view(stream_of(corpus, name, "train"), 8)
    }
    for i in range(200):
        item = dataset[i]
        assert {key: (value.dtype, tuple(value.shape)) for key, value in item.items()} == {
            "tokens": (torch.int64, (S,)),
            "labels": (torch.int64, (S,)),
            "loss_mask": (torch.float32, (S,)),
        }
        assert torch.equal(item["tokens"][1:], item["labels"][:-1])
        assert item["loss_mask"].all()
        windows = item["tokens"].unfold(0, 8, 1)
        inside = [
            w for w in windows.tolist() if corpus.tokenizer.eod not in w[:-1]
        ]  # documents are joined in new orders
        assert all(tuple(w) in known for w in inside)
    with pytest.raises(IndexError):
        dataset[200]


def test_order_depends_on_the_seed_alone(corpus: Corpus, tmp_path: Path) -> None:
    first = all_tokens(training_dataset(corpus, sequence_length=S, num_samples=100, seed=5))
    cached = all_tokens(training_dataset(corpus, sequence_length=S, num_samples=100, seed=5))
    rebuilt = all_tokens(
        training_dataset(corpus, sequence_length=S, num_samples=100, seed=5, cache_dir=tmp_path / "cache")
    )
    other = all_tokens(training_dataset(corpus, sequence_length=S, num_samples=100, seed=6))
    assert torch.equal(first, cached)
    assert torch.equal(first, rebuilt)
    assert not torch.equal(first, other)


def test_an_epoch_holds_every_training_token_once(corpus: Corpus) -> None:
    """With one domain and as many samples as it has, the windows are the whole stream, each once."""
    tokens = corpus.domains["beta"].train_tokens
    samples = (tokens - 1) // S
    dataset = training_dataset(corpus, sequence_length=S, num_samples=samples, seed=1, weights={"beta": 1.0})
    drawn = np.bincount(all_tokens(dataset).flatten().numpy(), minlength=corpus.vocab_size)
    stored = np.bincount(stream_of(corpus, "beta", "train"), minlength=corpus.vocab_size)
    assert (drawn <= stored).all()
    assert stored.sum() - drawn.sum() <= S


@pytest.mark.parametrize("weights", [None, {"alpha": 1.0, "beta": 3.0}, {"beta": 1.0, "alpha": 1000.0}, {"alpha": 2.0}])
def test_domains_are_drawn_by_weight(corpus: Corpus, weights: dict[str, float] | None) -> None:
    dataset = training_dataset(corpus, sequence_length=S, num_samples=400, seed=5, weights=weights)
    frequent = {name: np.bincount(stream_of(corpus, name, "train"), minlength=400) for name in corpus.domains}
    scores = {name: np.log(count + 0.1) - np.log(count.sum()) for name, count in frequent.items()}
    drawn = all_tokens(dataset).numpy()
    alpha = sum(scores["alpha"][row].sum() > scores["beta"][row].sum() for row in drawn)
    shares = weights or {name: float(domain.train_tokens) for name, domain in corpus.domains.items()}
    assert alpha / 400 == pytest.approx(shares.get("alpha", 0.0) / sum(shares.values()), abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {"gamma": 1.0}}, "'gamma' is not in corpus"),
        ({"weights": {"alpha": 0.0}}, "weights.alpha=0.0"),
        ({"weights": {}}, "names no domain"),
        ({"num_samples": 0}, "num_samples=0"),
        ({"sequence_length": 0}, "sequence_length=0"),
    ],
)
def test_arguments_out_of_range_are_errors(corpus: Corpus, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        training_dataset(corpus, **({"sequence_length": S, "num_samples": 10, "seed": 1} | arguments))  # type: ignore[arg-type]


def rows_of_step(
    dataset: SampleDataset, dp_size: int, step: int, global_batch: int, micro_batch_size: int
) -> torch.Tensor:
    """The rows of a global batch in the order micro-batch, rank, row."""
    batches = [
        micro_batch(
            dataset,
            consumed_samples=step * global_batch,
            microbatch=m,
            micro_batch_size=micro_batch_size,
            dp_rank=rank,
            dp_size=dp_size,
        )
        for m in range(global_batch // (micro_batch_size * dp_size))
        for rank in range(dp_size)
    ]
    return torch.cat([batch.tokens for batch in batches])


def test_a_global_batch_is_the_same_for_any_number_of_ranks(corpus: Corpus) -> None:
    dataset = training_dataset(corpus, sequence_length=S, num_samples=48, seed=5)
    expected = all_tokens(dataset)
    for step in range(3):
        for dp_size in (1, 2, 4):
            assert torch.equal(rows_of_step(dataset, dp_size, step, 16, 2), expected[16 * step : 16 * step + 16])


def test_running_past_the_last_sample_is_an_error(corpus: Corpus) -> None:
    dataset = training_dataset(corpus, sequence_length=S, num_samples=10, seed=5)

    def last_two(consumed: int) -> Batch:
        return micro_batch(
            dataset, consumed_samples=consumed, microbatch=0, micro_batch_size=2, dp_rank=0, dp_size=1, device="cpu"
        )

    batch = last_two(8)
    assert (len(batch), batch.labels.shape, batch.loss_mask.dtype) == (2, (2, S), torch.float32)
    with pytest.raises(DataError, match="num_samples=10"):
        last_two(9)


def test_tokens_outside_the_vocabulary_are_errors(corpus_dir: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(corpus_dir, tmp_path / "copy"))
    for split in ("train", "validation"):
        size = (path / f"beta.{split}.bin").stat().st_size
        (path / f"beta.{split}.bin").write_bytes(b"\xff" * size)
    corpus = Corpus.open(path)  # sizes are right
    dataset = training_dataset(corpus, sequence_length=S, num_samples=10, seed=5, weights={"beta": 1.0})
    with pytest.raises(DataError, match="token 65535, outside vocab_size=400"):
        micro_batch(dataset, consumed_samples=0, microbatch=0, micro_batch_size=1, dp_rank=0, dp_size=1)
    with pytest.raises(DataError, match=r"beta\.validation\.bin has token 65535"):
        validation_sequences(corpus, "beta", sequence_length=S, count=1)


@pytest.mark.parametrize("kind", ["document_index", "sample_index", "shuffle_index"])
def test_an_index_that_leads_outside_of_the_tokens_is_an_error(kind: str, corpus: Corpus, tmp_path: Path) -> None:
    def first_rows() -> Batch:
        dataset = training_dataset(
            corpus, sequence_length=S, num_samples=10, seed=5, weights={"beta": 1.0}, cache_dir=tmp_path
        )
        return micro_batch(dataset, consumed_samples=0, microbatch=0, micro_batch_size=2, dp_rank=0, dp_size=1)

    first_rows()
    (array,) = tmp_path.rglob(f"*{kind}.npy")
    np.save(array, np.full_like(np.load(array), 10**6))
    (array.parent / RECORD).unlink()
    seal(array.parent, array.parent.name)  # with hashes that fit
    with pytest.raises(DataError, match="the index of the training data does not fit the tokens; remove"):
        first_rows()


def test_an_index_interrupted_while_written_is_built_anew(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def index() -> torch.Tensor:
        return all_tokens(training_dataset(corpus, sequence_length=S, num_samples=20, seed=9, cache_dir=tmp_path))

    def interrupted(self: object, folder: Path) -> None:
        (folder / "half-written.npy").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sample_index_module.SampleIndex, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index()
    assert torch.equal(index(), all_tokens(training_dataset(corpus, sequence_length=S, num_samples=20, seed=9)))
    assert not list(tmp_path.glob("incoming-*"))


def test_an_unwritable_corpus_is_indexed_elsewhere(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file-in-the-way"
    blocked.touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dataset = training_dataset(corpus, sequence_length=S, num_samples=20, seed=9, cache_dir=blocked / "cache")
    assert torch.equal(
        all_tokens(dataset), all_tokens(training_dataset(corpus, sequence_length=S, num_samples=20, seed=9))
    )
    assert list(tmp_path.glob("unipool-dist-*/*/*.npy"))


def test_what_cannot_be_kept_with_the_corpus_goes_to_a_folder_that_others_see(corpus: Corpus, tmp_path: Path) -> None:
    blocked, spare = tmp_path / "file-in-the-way", tmp_path / "run" / "cache"
    blocked.touch()
    training_dataset(corpus, sequence_length=S, num_samples=21, seed=9, cache_dir=blocked / "cache", spare_dir=spare)
    assert list(spare.glob("*/*.npy"))


def test_a_corpus_is_found_by_the_path_that_was_given(corpus: Corpus, tmp_path: Path) -> None:
    """What is behind a link may have another path on another node."""
    (tmp_path / "link").symlink_to(corpus.path.absolute())
    linked = Corpus.open(tmp_path / "link")
    shares = dict.fromkeys(corpus.domains, 0.5)
    index = SampleIndex(linked, S, 20, 9, shares)
    assert index.build(None) == str(tmp_path / "link" / "cache" / index.key)
    assert torch.equal(
        all_tokens(training_dataset(linked, sequence_length=S, num_samples=20, seed=9)),
        all_tokens(training_dataset(corpus, sequence_length=S, num_samples=20, seed=9)),
    )


def test_validation_sequences_are_the_stream_in_windows(corpus: Corpus) -> None:
    stream = stream_of(corpus, "beta", "validation")
    batch = validation_sequences(corpus, "beta", sequence_length=S, count=5)
    assert batch.tokens.shape == (5, S)
    assert batch.tokens.flatten().tolist() == stream[: 5 * S].tolist()
    assert batch.labels.flatten().tolist() == stream[1 : 5 * S + 1].tolist()
    assert batch.loss_mask.all()
    assert torch.equal(batch.rows(1, 3).labels, batch.labels[1:3])


@pytest.mark.parametrize("count", [None, 3, 1000])
def test_stored_sequences_are_read_some_at_a_time(corpus: Corpus, count: int | None) -> None:
    stored = StoredSequences(corpus, "beta", sequence_length=S, count=count)
    whole = validation_sequences(corpus, "beta", sequence_length=S, count=count or 10**6)
    assert (len(stored), stored.num_predicted) == (len(whole), int(whole.loss_mask.sum()))
    for start in range(0, len(stored), 7):
        part, expected = stored.rows(start, start + 7), whole.rows(start, start + 7)
        for key in ("tokens", "labels", "loss_mask"):
            assert torch.equal(getattr(part, key), getattr(expected, key))


@pytest.mark.parametrize("sequence_length", [100, 1_000_000])
def test_the_last_window_is_padded_and_every_token_counted_once(corpus: Corpus, sequence_length: int) -> None:
    stream = stream_of(corpus, "beta", "validation")
    batch = validation_sequences(corpus, "beta", sequence_length=sequence_length, count=10_000)
    assert len(batch) == -(-(len(stream) - 1) // sequence_length)
    assert batch.loss_mask.sum() == len(stream) - 1
    counted = batch.loss_mask.bool()
    assert batch.labels[counted].tolist() == stream[1:].tolist()
    assert not batch.tokens[~counted].any()
    with pytest.raises(DataError, match="count=0"):
        validation_sequences(corpus, "beta", sequence_length=8, count=0)
