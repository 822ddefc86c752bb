"""Corpora made to do harm, with manifests that fit: they are refused before anything is allocated or trained on."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from unipool_dist.cli.data import data
from unipool_dist.data import Corpus, training_dataset, validation_sequences
from unipool_dist.data.corpus_manifest import combined_hash, record_file
from unipool_dist.errors import DataError

Values = dict[str, Any]


@pytest.fixture
def copy(corpus_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(corpus_dir, tmp_path / "copy", ignore=shutil.ignore_patterns("cache")))


def seal(folder: Path, change: Callable[[Values], object] = lambda values: None) -> None:
    """Make the manifest state what the files are, and ``change`` it."""
    values = json.loads((folder / "manifest.json").read_text())
    for name in values["files"]:
        if (folder / name).is_file():
            values["files"][name] = record_file(folder / name).model_dump()
    model = values["files"]["tokenizer.model"]["sha256"]
    values["tokenizer"]["sha256"] = combined_hash({"tokenizer.model": model})
    change(values)
    (folder / "manifest.json").write_text(json.dumps(values))


def instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def manifest(change: Callable[[Values], object]) -> Callable[[Path], None]:
    return lambda folder: seal(folder, change)


def each(*changes: Callable[[Path], object]) -> Callable[[Path], None]:
    """All of ``changes``, one after the other."""

    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def file_more(name: str) -> Callable[[Path], None]:
    return manifest(lambda values: values["files"].update({name: {"num_bytes": 0, "sha256": ""}}))


def domain_called(name: str) -> Callable[[Path], None]:
    def change(values: Values) -> None:
        values["domains"] = {name if old == "beta" else old: domain for old, domain in values["domains"].items()}

    return manifest(change)


def domain(**changes: Any) -> Callable[[Path], None]:
    return manifest(lambda values: values["domains"]["beta"].update(changes))


def tokenizer(**changes: Any) -> Callable[[Path], None]:
    return manifest(lambda values: values["tokenizer"].update(changes))


def behind_a_link(folder: Path) -> None:
    (folder / "beta.train.bin").rename(folder.parent / "moved")
    (folder / "beta.train.bin").symlink_to(folder.parent / "moved")


def nested(values: Values) -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    values["options"] = {"a": deep}


def with_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    file_more("pipe")(folder)


CORPORA: dict[str, Callable[[Path], object]] = {
    "deep": lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
    "deep options": manifest(nested),
    "digits": lambda folder: (folder / "manifest.json").write_text('{"format_version": ' + "9" * 5000 + "}"),
    "a pipe": instead("manifest.json", os.mkfifo),
    "without end": instead("manifest.json", lambda path: path.symlink_to("/dev/zero")),
    "a file outside": file_more("../../etc/hostname"),
    "a device": file_more("/dev/zero"),
    "a pipe among the files": with_pipe,
    "NUL": file_more("a\0b"),
    "a long name": file_more("a" * 5000),
    "control characters": file_more("\x1b[2J"),
    "no files": manifest(lambda values: values.update(files={})),
    "no tokenizer": manifest(lambda values: values["files"].pop("tokenizer.model")),
    "another tokenizer": tokenizer(sha256="0" * 64),
    "a pipe of tokens": instead("beta.train.bin", os.mkfifo),
    "tokens behind a link": behind_a_link,
    "a domain outside": domain_called("../copy/beta"),
    "an absolute domain": domain_called("/tmp/beta"),
    "a domain with NUL": domain_called("a\0b"),
    "a long domain": domain_called("a" * 5000),
    "a domain of control characters": domain_called("\x1b[2J"),
    "a domain that is no text": domain_called("\ud800"),
    "a domain without a name": domain_called(""),
    "no domains": manifest(lambda values: values.update(domains={})),
    "no vocabulary": tokenizer(vocab_size=0),
    "a negative vocabulary": tokenizer(vocab_size=-5),
    "a vocabulary of 10^9": tokenizer(vocab_size=10**9),
    "a vocabulary of 10^12": tokenizer(vocab_size=10**12),
    "an end outside the vocabulary": tokenizer(eod=10**6),
    "another kind": tokenizer(kind="gpt2"),
    "no tokens": domain(train_tokens=0, validation_tokens=0),
    "negative tokens": domain(train_tokens=-5),
    "tokens beyond the file": domain(validation_tokens=10**15),
    "tokens of 300 digits": domain(train_tokens=10**300),
    "no bytes": domain(validation_bytes=0),
    "no documents": domain(train_documents=0),
    "no number": domain(unigram_entropy=float("nan")),
    "fewer tokens": each(lambda folder: os.truncate(folder / "beta.validation.bin", 2), seal),
    "none": each(lambda folder: os.truncate(folder / "beta.train.bin", 0), seal),
}


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_that_cannot_be_is_refused(name: str, copy: Path) -> None:
    CORPORA[name](copy)
    with pytest.raises(DataError):
        Corpus.open(copy)
    result = CliRunner().invoke(data, ["show", str(copy), "--verify", "hash"])
    assert isinstance(result.exception, DataError), (result.output, result.exception)


def header(position: int, form: str, value: int) -> Callable[[bytearray, int], None]:
    return lambda index, count: struct.pack_into(form, index, position, value)


def column(start: Callable[[int], int], dtype: str, values: Callable[[int], Any]) -> Callable[[bytearray, int], None]:
    def change(index: bytearray, count: int) -> None:
        numbers = np.asarray(values(count), dtype=dtype).tobytes()
        index[start(count) : start(count) + len(numbers)] = numbers

    return change


def lengths(values: Callable[[int], Any]) -> Callable[[bytearray, int], None]:
    return column(lambda count: 34, "<i4", values)


def pointers(values: Callable[[int], Any]) -> Callable[[bytearray, int], None]:
    return column(lambda count: 34 + 4 * count, "<i8", values)


def borders(values: Callable[[int], Any]) -> Callable[[bytearray, int], None]:
    return column(lambda count: 34 + 12 * count, "<i8", values)


INDICES: dict[str, Callable[[bytearray, int], object]] = {
    "empty": lambda index, count: index.clear(),
    "noise": lambda index, count: index.__setitem__(slice(0, 40), b"x" * 40),
    "magic alone": lambda index, count: index.__delitem__(slice(9, None)),
    "version": header(9, "<Q", 77),
    "type unknown": header(17, "<B", 99),
    "type float64": header(17, "<B", 6),
    "type wider": header(17, "<B", 4),
    "count 2^60": header(18, "<Q", 1 << 60),
    "count -1": header(18, "<q", -1),
    "count 0": header(18, "<Q", 0),
    "documents 2^60": header(26, "<Q", 1 << 60),
    "lengths -1": lengths(lambda count: [-1] * count),
    "lengths 0": lengths(lambda count: [0] * count),
    "lengths 2^31-1": lengths(lambda count: [2**31 - 1] * count),
    "lengths random": lengths(lambda count: np.random.default_rng(1).integers(-(2**31), 2**31, count)),
    "one length longer": lengths(lambda count: [10**6]),
    "pointers 2^62": pointers(lambda count: [1 << 62] * count),
    "pointers negative": pointers(lambda count: [-(10**6)] * count),
    "pointers odd": pointers(lambda count: [1] * count),
    "documents outside": borders(lambda count: [1 << 40] * (count + 1)),
    "documents negative": borders(lambda count: -np.arange(count + 1)),
    "bytes more": lambda index, count: index.extend(b"\0" * 8),
}


@pytest.mark.parametrize("name", INDICES)
def test_an_index_of_tokens_that_does_not_describe_them_is_refused(name: str, copy: Path, tmp_path: Path) -> None:
    path = copy / "beta.train.idx"
    index = bytearray(path.read_bytes())
    INDICES[name](index, struct.unpack_from("<Q", index, 18)[0])
    path.write_bytes(index)
    seal(copy)
    corpus = Corpus.open(copy, verify="hash")
    with pytest.raises(DataError, match=r"beta\.train\.idx"):
        training_dataset(corpus, sequence_length=32, num_samples=20, seed=1, cache_dir=tmp_path / "cache")
    validation_sequences(corpus, "beta", sequence_length=32, count=2)


MODELS = [b"", b"noise" * 1000, b"\x0a\xff\xff\xff\xff\x0f" + b"x" * 1000, b"\x80\x04N." + b"\0" * 1000]


@pytest.mark.parametrize("content", MODELS)
def test_what_is_no_tokenizer_is_refused(content: bytes, copy: Path) -> None:
    (copy / "tokenizer.model").write_bytes(content)
    seal(copy)
    with pytest.raises(DataError):
        assert Corpus.open(copy).tokenizer


def test_a_tokenizer_that_was_exchanged_is_not_used(copy: Path) -> None:
    corpus = Corpus.open(copy)
    model = bytearray((copy / "tokenizer.model").read_bytes())
    model[-1] ^= 1
    (copy / "tokenizer.model").write_bytes(model)
    with pytest.raises(DataError, match="is corrupt"):
        assert corpus.tokenizer


def test_a_tokenizer_of_another_size_than_the_manifest_says(copy: Path) -> None:
    tokenizer(vocab_size=300)(copy)
    with pytest.raises(DataError, match="its manifest says 300"):
        assert Corpus.open(copy).tokenizer
