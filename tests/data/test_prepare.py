"""Preparation: what lands on disk, that it is the same each time, and that half a corpus is never taken for one."""

from __future__ import annotations

import fcntl
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from unipool_dist.comm.megatron_import import import_megatron
from unipool_dist.data import Corpus
from unipool_dist.data import prepare as prepare_module
from unipool_dist.data.place import Place
from unipool_dist.data.prepare import PrepareOptions, prepare
from unipool_dist.errors import DataError

VOCAB_SIZE = 400  # of the fixture corpus_dir


def stored(corpus: Corpus, domain: str, split: Literal["train", "validation"]) -> list[list[int]]:
    """The token ids of every document, as Megatron-core reads them."""
    store = import_megatron("datasets.indexed_dataset").IndexedDataset(str(corpus.prefix(domain, split)))
    return [store[i].tolist() for i in range(len(store))]


def test_every_document_is_stored_once_and_ends_with_eod(
    corpus: Corpus, make_texts: Callable[[int, int], list[str]]
) -> None:
    tokenizer = corpus.tokenizer
    for name, seed, count in (("alpha", 1, 300), ("beta", 2, 100)):
        train, validation = stored(corpus, name, "train"), stored(corpus, name, "validation")
        for ids in train + validation:
            assert ids[-1] == tokenizer.eod
            assert tokenizer.eod not in ids[:-1]
        texts = [tokenizer.decode(ids) for ids in train + validation]
        assert sorted(texts) == sorted(make_texts(seed, count))
        domain = corpus.domains[name]
        assert (len(train), len(validation)) == (domain.train_documents, domain.validation_documents)
        assert sum(map(len, train)) == domain.train_tokens
        assert sum(map(len, validation)) == domain.validation_tokens
        assert sum(len(tokenizer.decode(ids).encode()) for ids in validation) == domain.validation_bytes


def test_no_validation_text_is_trained_on(
    prepared: Callable[..., Corpus],
    tmp_path: Path,
    make_texts: Callable[[int, int], list[str]],
    make_jsonl: Callable[..., Path],
) -> None:
    shared = make_texts(3, 120)
    corpus = prepared(
        {
            "one": str(make_jsonl(tmp_path / "one.jsonl", shared + shared[:60])),
            "two": str(make_jsonl(tmp_path / "two.jsonl", shared[60:] + make_texts(4, 60))),
        }
    )
    train = {tuple(ids) for name in corpus.domains for ids in stored(corpus, name, "train")}
    validation = {tuple(ids) for name in corpus.domains for ids in stored(corpus, name, "validation")}
    assert train
    assert validation
    assert not train & validation
    assert len(train) + len(validation) == 180


def test_unigram_entropy_is_that_of_the_stored_tokens(corpus: Corpus) -> None:
    for name, domain in corpus.domains.items():
        counts = Counter(token for ids in stored(corpus, name, "train") for token in ids)
        validation = [token for ids in stored(corpus, name, "validation") for token in ids]
        total = sum(counts.values()) + corpus.vocab_size
        expected = -sum(math.log((counts[token] + 1) / total) for token in validation) / len(validation)
        assert domain.unigram_entropy == pytest.approx(expected, abs=1e-6)
        assert 1.0 < domain.unigram_entropy < math.log(corpus.vocab_size)


def test_preparing_elsewhere_gives_the_same_bytes(corpus_dir: Path, sources: dict[str, str], tmp_path: Path) -> None:
    moved = {}
    for name, location in sources.items():
        moved[name] = str(tmp_path / Path(location).name)
        Path(moved[name]).write_bytes(Path(location).read_bytes())
    prepare(tmp_path / "again", PrepareOptions(sources=moved, vocab_size=VOCAB_SIZE))
    assert (tmp_path / "again/manifest.json").read_bytes() == (corpus_dir / "manifest.json").read_bytes()


def test_equal_options_do_nothing_and_others_need_force(sources: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = PrepareOptions(sources={"beta": sources["beta"]}, vocab_size=VOCAB_SIZE)
    first, done = prepare(out, options)
    assert done
    before = os.stat(out / "manifest.json").st_mtime_ns
    assert prepare(out, options) == (first, False)
    assert os.stat(out / "manifest.json").st_mtime_ns == before
    other = PrepareOptions(sources={"beta": sources["beta"]}, vocab_size=380)
    with pytest.raises(DataError, match=r"vocab_size=400 -> 380.*--force"):
        prepare(out, other)
    assert Corpus.open(out).vocab_size == 400
    prepare(out, other, force=True)
    assert Corpus.open(out, verify="hash").vocab_size == 380
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_preparation_leaves_no_corpus_and_the_next_is_whole(
    corpus_dir: Path, sources: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    options = PrepareOptions(sources=sources, vocab_size=VOCAB_SIZE)
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "write_manifest", interrupt)  # everything else has been written by then
        with pytest.raises(KeyboardInterrupt):
            prepare(out, options)
    assert (tmp_path / "out.partial/alpha.train.bin").exists()
    for path in (out, tmp_path / "out.partial"):
        with pytest.raises(DataError, match="no prepared corpus"):
            Corpus.open(path)
    (tmp_path / "out.partial/gone.train.bin").touch()  # of a domain that the next one does not have
    assert prepare(out, options)[1]
    assert not (out / "gone.train.bin").exists()
    assert (out / "manifest.json").read_bytes() == (corpus_dir / "manifest.json").read_bytes()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_two_processes_do_not_prepare_the_same_corpus(sources: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial/alpha.train.bin").touch()
    lock = os.open(tmp_path / "out.partial/.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(DataError, match="another process"):
        prepare(tmp_path / "out", PrepareOptions(sources=sources))
    assert (tmp_path / "out.partial/alpha.train.bin").exists(), "the other's files stay"
    os.close(lock)
    prepare(tmp_path / "out", PrepareOptions(sources=sources, vocab_size=VOCAB_SIZE))
    assert not (tmp_path / "out/.lock").exists()


def test_nobody_else_gets_at_a_corpus_that_is_being_published(
    sources: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it has its name: else what is about to be renamed would be taken for left over, and deleted."""
    refusals = []
    rename = Place._rename

    def meanwhile(place: Place) -> None:
        with pytest.raises(DataError, match="another process"), Place(tmp_path / "out").locked():
            pass
        refusals.append(place)
        rename(place)

    monkeypatch.setattr(Place, "_rename", meanwhile)
    prepare(tmp_path / "out", PrepareOptions(sources=sources, vocab_size=VOCAB_SIZE))
    assert refusals and {path.name for path in Corpus.open(tmp_path / "out").path.iterdir()} >= {"alpha.train.bin"}


def test_force_does_not_replace_what_is_no_corpus(sources: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="is not a corpus"):
        prepare(tmp_path, PrepareOptions(sources=sources), force=True)
    assert (tmp_path / "thesis.txt").exists()


def test_cap_limits_every_domain(prepared: Callable[..., Corpus], sources: dict[str, str]) -> None:
    corpus = prepared(sources, max_bytes_per_domain=20_000)
    for domain in corpus.domains.values():
        assert domain.train_bytes is not None
        assert 19_000 < domain.train_bytes + domain.validation_bytes <= 20_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 0.5}, "validation_fraction=0.5"),
        ({"max_bytes_per_domain": 0}, "max_bytes_per_domain=0"),
        ({"gpt2_vocab": Path("encoder.json")}, "go together"),
    ],
)
def test_options_out_of_range_are_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        PrepareOptions(**options)  # type: ignore[arg-type]


def test_a_vocabulary_too_large_for_the_text_is_an_error(sources: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"vocab_size=30000 .*at most \d+"):
        prepare(tmp_path / "out", PrepareOptions(sources=sources, vocab_size=30_000))


def test_an_unknown_corpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose among default, ten-domains"):
        prepare(tmp_path / "out", PrepareOptions(corpus="defualt"))
