"""Opening a corpus: every kind of damage is found and named, and tokenizers are what they say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from unipool_dist.cli.data import render
from unipool_dist.data import Corpus
from unipool_dist.data.tokenizer_kinds.gpt2 import Gpt2Tokenizer
from unipool_dist.errors import DataError


@pytest.fixture
def copy(corpus_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(corpus_dir, tmp_path / "copy"))


def test_a_copy_is_the_same_corpus(copy: Path, corpus: Corpus) -> None:
    moved = Corpus.open(copy, verify="hash")
    assert moved.content_hash == corpus.content_hash
    assert moved.tokenizer_hash == corpus.tokenizer_hash
    assert moved.tokenizer.unique_identifiers == corpus.tokenizer.unique_identifiers
    assert list(moved.domains) == ["alpha", "beta"]


def test_a_manifest_of_an_earlier_version_has_no_counts_and_is_read(copy: Path, corpus: Corpus) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    for domain in manifest["domains"].values():
        assert domain.pop("rows")["read"] > 0
    (copy / "manifest.json").write_text(json.dumps(manifest))
    earlier = Corpus.open(copy, verify="hash")
    assert earlier.content_hash == corpus.content_hash
    assert render(earlier.manifest).splitlines()[:4] == render(corpus.manifest).splitlines()[:4]
    assert "rows of" not in render(earlier.manifest)


@pytest.mark.parametrize("name", ["beta.train.bin", "alpha.validation.idx", "tokenizer.model"])
def test_missing_truncated_and_corrupt_files_are_named(name: str, copy: Path) -> None:
    path = copy / name
    data = path.read_bytes()
    path.write_bytes(data[:-2])
    with pytest.raises(DataError, match=rf"{name} has {len(data) - 2} bytes instead of {len(data)}.*data prepare"):
        Corpus.open(copy)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    Corpus.open(copy, verify="size")
    with pytest.raises(DataError, match=rf"{name} is corrupt.*data prepare"):
        Corpus.open(copy, verify="hash")
    path.unlink()
    with pytest.raises(DataError, match=rf"{name} is missing.*data prepare"):
        Corpus.open(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "cannot be read"),
        (lambda text: json.dumps(json.loads(text) | {"format_version": 0}), "format_version=0"),
        (lambda text: json.dumps(json.loads(text) | {"domains": {"alpha": {}}}), "damaged: domains.alpha"),
        (lambda text: "[]", "format_version=None"),
    ],
)
def test_a_damaged_manifest_is_an_error(change: Callable[[str], str], message: str, copy: Path) -> None:
    path = copy / "manifest.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message):
        Corpus.open(copy)


def test_no_corpus_and_unknown_names_are_errors(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no prepared corpus at .*data prepare"):
        Corpus.open(tmp_path)
    with pytest.raises(DataError, match=r"'gamma' is not in corpus .* alpha, beta"):
        corpus.domain("gamma")
    with pytest.raises(DataError, match="verify='sha'"):
        Corpus.open(corpus.path, verify="sha")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["  two  spaces\n\n\ttab ", "ünï 你好 🙂", "", "<eod> </s> <unk>", "\x00 1984"])
def test_sentencepiece_keeps_any_text(text: str, corpus: Corpus) -> None:
    ids = corpus.tokenizer.encode(text)
    assert corpus.tokenizer.decode(ids) == text
    assert corpus.tokenizer.eod not in ids
    assert all(0 <= i < corpus.vocab_size for i in ids)
    assert corpus.tokenizer.encode_batch([text, "a"])[0] == ids


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    table = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [table[b] for b in range(256)]


def write_gpt2_files(folder: Path, pieces: list[str]) -> tuple[Path, Path]:
    vocab, merges = folder / "encoder.json", folder / "vocab.bpe"
    vocab.write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    merges.write_text("#version: 0.2\nt h\nth e\n")
    return vocab, merges


def test_gpt2_files_make_a_tokenizer(
    tmp_path: Path,
    prepared: Callable[..., Corpus],
    make_texts: Callable[[int, int], list[str]],
    make_jsonl: Callable[..., Path],
) -> None:
    vocab, merges = write_gpt2_files(tmp_path, [*byte_alphabet(), "th", "the", "<|endoftext|>"])
    source = make_jsonl(tmp_path / "a.jsonl", make_texts(1, 50))
    corpus = prepared({"a": str(source)}, gpt2_vocab=vocab, gpt2_merges=merges)
    tokenizer = corpus.tokenizer
    assert corpus.vocab_size == tokenizer.vocab_size == 259
    assert tokenizer.eod == 258
    assert tokenizer.encode("the") == [257]
    assert tokenizer.encode("at") == [ord("a"), ord("t")]
    assert tokenizer.decode(tokenizer.encode("the ünï\n 你")) == "the ünï\n 你"
    domain = corpus.domains["a"]
    assert domain.train_bytes is not None and domain.train_tokens > domain.train_bytes * 0.9


def test_gpt2_files_that_lose_text_are_refused(
    tmp_path: Path,
    prepared: Callable[..., Corpus],
    make_texts: Callable[[int, int], list[str]],
    make_jsonl: Callable[..., Path],
) -> None:
    source = {"a": str(make_jsonl(tmp_path / "a.jsonl", make_texts(1, 50)))}
    vocab, merges = write_gpt2_files(tmp_path, [*byte_alphabet(), "th", "the"])
    with pytest.raises(DataError, match="lacks 1 required pieces"):
        prepared(source, gpt2_vocab=vocab, gpt2_merges=merges)
    with pytest.raises(DataError, match="check which is which"):
        prepared(source, gpt2_vocab=merges, gpt2_merges=vocab)
    with pytest.raises(DataError, match=r"nowhere\.json does not exist"):
        prepared(source, gpt2_vocab=tmp_path / "nowhere.json", gpt2_merges=merges)


@pytest.mark.parametrize(
    "vocabulary",
    [
        "[" * 100_000,
        "[]",
        "{}",
        '{"a": "x"}',
        '{"a": -1, "<|endoftext|>": 0}',
        '{"!": 4294967295, "<|endoftext|>": 0}',
        '{"!": 1e300, "<|endoftext|>": 0}',
        '{"a": ' + "9" * 5000 + "}",
    ],
)
def test_a_vocabulary_without_ids_of_its_own_size_is_refused(vocabulary: str, tmp_path: Path) -> None:
    """Its largest id is the size of the embedding."""
    _, merges = write_gpt2_files(tmp_path, byte_alphabet())
    (tmp_path / "encoder.json").write_text(vocabulary)
    with pytest.raises(DataError, match="check which is which"):
        Gpt2Tokenizer(tmp_path / "encoder.json", merges, sha256="")
