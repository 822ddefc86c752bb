"""Validation text of the user's own: it is all of validation, and none of it is trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from unipool_dist.cli.data import data
from unipool_dist.comm.megatron_import import import_megatron
from unipool_dist.data import Corpus
from unipool_dist.data.prepare import PrepareOptions, prepare
from unipool_dist.errors import DataError


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def stored(corpus: Corpus, domain: str, split: str) -> list[str]:
    indexed = import_megatron("datasets.indexed_dataset").IndexedDataset(str(corpus.path / f"{domain}.{split}"))
    return [corpus.tokenizer.decode([int(token) for token in indexed[i]][:-1]) for i in range(len(indexed))]


def test_validation_is_what_was_given_and_nothing_of_it_is_trained_on(
    make_texts: Callable[[int, int], list[str]], tmp_path: Path, prepared: Callable[..., Corpus]
) -> None:
    first, second = make_texts(5, 100), make_texts(6, 80)
    sources = {
        "a": write(tmp_path / "a.jsonl", first[:90] + second[:5]),  # with five texts of the validation of b
        "b": write(tmp_path / "b.jsonl", second),
    }
    validation = {
        "a": write(tmp_path / "va.jsonl", first[80:]),
        "b": write(tmp_path / "vb.jsonl", second[:10]),
    }
    corpus = prepared(sources, validation=validation)
    assert sorted(stored(corpus, "a", "validation")) == sorted(first[80:])
    assert sorted(stored(corpus, "b", "validation")) == sorted(second[:10])
    assert stored(corpus, "a", "train") == first[:80]
    assert stored(corpus, "b", "train") == second[10:]
    rows = corpus.domains["a"].rows
    assert rows is not None and rows.read == 95 + 20 and rows.dropped == {"duplicate": 15}


def test_a_single_text_may_be_the_validation_and_the_limit_is_of_training(
    make_texts: Callable[[int, int], list[str]], tmp_path: Path
) -> None:
    source = write(tmp_path / "a.jsonl", make_texts(5, 100))
    (tmp_path / "v.txt").write_text("a single text of one line, and longer than the limit below allows" * 300)
    command = ["prepare", str(tmp_path / "out"), "--vocab-size=400", "--max-bytes-per-domain=9000", "--source"]
    result = CliRunner().invoke(
        data, [*command, f"a={source}", "--validation", f"a={tmp_path}/v.txt"], catch_exceptions=False
    )
    assert result.exit_code == 0
    domain = Corpus.open(tmp_path / "out").domains["a"]
    assert domain.validation_documents == 1 and domain.validation_bytes > 19_000
    assert domain.train_bytes is not None and 8_000 < domain.train_bytes <= 9_000


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ({"b": "v.jsonl"}, "--validation b=.* has no --source b="),
        ({"a": "nowhere.jsonl"}, "a=nowhere.jsonl has no text files"),
        ({"a": "empty.jsonl"}, "--source a is empty"),
    ],
)
def test_validation_that_cannot_be_is_an_error(
    validation: dict[str, str],
    message: str,
    make_texts: Callable[[int, int], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "empty.jsonl", [])
    source = write(tmp_path / "a.jsonl", make_texts(5, 100))
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "out", PrepareOptions(sources={"a": source}, validation=validation))


def test_other_validation_is_another_corpus(make_texts: Callable[[int, int], list[str]], tmp_path: Path) -> None:
    source, out = write(tmp_path / "a.jsonl", make_texts(5, 100)), tmp_path / "out"
    validation = {"a": write(tmp_path / "v.jsonl", make_texts(7, 3))}
    prepare(out, PrepareOptions(sources={"a": source}, validation=validation, vocab_size=400))
    assert prepare(out, PrepareOptions(sources={"a": source}, validation=validation, vocab_size=400))[1] is False
    with pytest.raises(DataError, match="prepared with other options"):
        prepare(out, PrepareOptions(sources={"a": source}, vocab_size=400))
    write(tmp_path / "v.jsonl", make_texts(8, 3))
    with pytest.raises(DataError, match="prepared with other options"):
        prepare(out, PrepareOptions(sources={"a": source}, validation=validation, vocab_size=400))
