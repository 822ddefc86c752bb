"""Tokens of Megatron become a corpus: every document once, on one side; what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from unipool_dist.cli import cli
from unipool_dist.comm.megatron_import import import_megatron
from unipool_dist.data import Corpus
from unipool_dist.data.adopt import AdoptOptions, adopt
from unipool_dist.data.given_tokenizer import given_tokenizer
from unipool_dist.data.token_store import check_token_store
from unipool_dist.errors import DataError


def write_store(prefix: Path, documents: list[list[list[int]]], dtype: type = np.int32) -> Path:
    """A store by Megatron's own builder: of documents, of sequences, of tokens."""
    builder = import_megatron("datasets.indexed_dataset").IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for sequences in documents:
        builder.add_document([token for tokens in sequences for token in tokens], list(map(len, sequences)))
    builder.finalize(f"{prefix}.idx")
    return prefix


def adopted(corpus: Corpus, out: Path, validation: Path | None = None, **tokens: Path) -> Corpus:
    options = AdoptOptions(tokens, {} if validation is None else {next(iter(tokens)): validation})
    adopt(out, options, given_tokenizer(corpus.path))
    opened = Corpus.open(out, verify="hash")
    for domain in opened.domains:
        check_token_store(opened, domain, "train")
        check_token_store(opened, domain, "validation")
    return opened


def documents_of(corpus: Corpus, domain: str, side: str) -> list[list[int]]:
    stored = np.fromfile(corpus.path / f"{domain}.{side}.bin", np.uint16)
    ends = np.flatnonzero(stored == corpus.tokenizer.eod) + 1
    assert ends[-1] == len(stored)
    return [part[:-1].tolist() for part in np.split(stored, ends)[:-1]]


@pytest.fixture(scope="module")
def texts(make_texts: Callable[[int, int], list[str]]) -> list[str]:
    return make_texts(7, 120)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_every_document_is_adopted_once_and_ends(dtype: type, corpus: Corpus, texts: list[str], tmp_path: Path) -> None:
    eod = corpus.tokenizer.eod
    ids = corpus.tokenizer.encode_batch(texts)
    stored = [[[*one, eod]] for one in ids[:60]]  # ended, as with --append-eod
    stored += [[one[:9], one[9:]] for one in ids[60:90]]  # in several sequences, and without an end
    stored += [[[eod]], [[eod, *ids[90], eod, *ids[91]]]]  # nothing, and two documents in one
    stored += [[one] for one in ids[92:]]
    found = adopted(corpus, tmp_path / "out", news=write_store(tmp_path / "a.b", stored, dtype))
    train, validation = (documents_of(found, "news", side) for side in ("train", "validation"))
    assert sorted(train + validation) == sorted(ids)
    held_out = {tuple(one) for one in validation}
    assert train == [one for one in ids if tuple(one) not in held_out], "in their order"
    record = found.domains["news"]
    assert record.validation_bytes == sum(len(corpus.tokenizer.decode(one).encode()) for one in validation)
    assert record.train_bytes is None
    assert 0.02 < record.validation_tokens / (record.train_tokens + record.validation_tokens) < 0.5
    assert found.tokenizer_hash == corpus.tokenizer_hash


def test_a_validation_of_its_own_is_not_trained_on(corpus: Corpus, texts: list[str], tmp_path: Path) -> None:
    ids = corpus.tokenizer.encode_batch(texts)
    train = write_store(tmp_path / "t", [[one] for one in [*ids[:50], ids[3]]])
    held_out = write_store(tmp_path / "v", [[one] for one in ids[45:60]])
    found = adopted(corpus, tmp_path / "out", validation=held_out, news=tmp_path / "t.idx")
    assert documents_of(found, "news", "validation") == ids[45:60]
    assert documents_of(found, "news", "train") == [*ids[:45], ids[3]], "equal ones of training stay"
    assert found.domains["news"].rows is not None
    assert found.domains["news"].rows.dropped == {"duplicate": 5}
    assert train.with_suffix(".bin").exists()


def test_equal_documents_are_on_one_side(corpus: Corpus, texts: list[str], tmp_path: Path) -> None:
    ids = corpus.tokenizer.encode_batch(texts[:40]) * 3
    found = adopted(corpus, tmp_path / "out", news=write_store(tmp_path / "t", [[one] for one in ids]))
    train, validation = (documents_of(found, "news", side) for side in ("train", "validation"))
    assert not {tuple(one) for one in train} & {tuple(one) for one in validation}
    assert sorted(train + validation) == sorted(ids)


def _index(change: Callable[[np.ndarray], None], offset: int, kind: str) -> Callable[[Path], None]:
    def damage(prefix: Path) -> None:
        data = bytearray(prefix.with_suffix(".idx").read_bytes())
        change(np.frombuffer(data, kind, offset=offset))
        prefix.with_suffix(".idx").write_bytes(data)

    return damage


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (lambda prefix: prefix.with_suffix(".idx").unlink(), "No such file"),
    "no tokens": (lambda prefix: prefix.with_suffix(".bin").unlink(), "No such file"),
    "tokens cut off": (lambda prefix: prefix.with_suffix(".bin").write_bytes(b"12"), "instead of the .* tokens"),
    "index cut off": (lambda prefix: prefix.with_suffix(".idx").write_bytes(b"12"), "cannot be adopted"),
    "another file": (lambda prefix: prefix.with_suffix(".idx").write_bytes(b"x" * 99), "not an index of tokens"),
    "floats": (_index(lambda data: data.put(0, 7), 17, "u1"), "not a type of integers"),
    "endless": (_index(lambda data: data.put(0, 1 << 60), 18, "<i8"), "do not fit"),
    "a negative length": (_index(lambda data: data.put(0, -5), 34, "<i4"), "sequence of -5 tokens"),
    "a pointer elsewhere": (_index(lambda data: data.put(1, 1 << 40), 34 + 4 * 40, "<i8"), "follow one another"),
    "documents back and forth": (_index(lambda data: data.put(1, 39), 34 + 12 * 40, "<i8"), "follow one another"),
    "another vocabulary": (
        lambda prefix: write_store(prefix, [[[5, 6]]] * 40 + [[[5, 400]]]),
        r"token 81 of .* is 400, outside the vocabulary of 400 .*give the tokenizer that made",
    ),
    "no document": (lambda prefix: write_store(prefix, [[[1]]] * 40), "0 distinct documents"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_store_that_does_not_fit_is_refused(name: str, corpus: Corpus, tmp_path: Path) -> None:
    damage, message = DAMAGE[name]
    prefix = write_store(tmp_path / "t", [[[5, 6, 7 + i]] for i in range(40)])
    damage(prefix)
    with pytest.raises(DataError, match=message):
        adopted(corpus, tmp_path / "out", news=prefix)
    assert not (tmp_path / "out").exists()


def test_the_command_adopts_a_corpus(corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["data", "adopt", str(out), f"--tokens=beta={corpus.path / 'beta.train'}", f"--tokenizer={corpus.path}"]
    done = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    record = corpus.domains["beta"]
    (line,) = (line.split() for line in done.output.splitlines() if line.startswith("beta ") and "beta.train" in line)
    assert line[1:3] == [str(record.train_documents), "-"]
    assert Corpus.open(out, verify="hash").tokenizer_hash == corpus.tokenizer_hash
    assert json.loads((out / "manifest.json").read_text())["options"]["adopted"].keys() == {"beta"}
    again = CliRunner().invoke(cli, command)
    assert isinstance(again.exception, DataError)
    assert "--force" in str(again.exception)
    assert CliRunner().invoke(cli, [*command, "--force"]).exit_code == 0
    wrong = CliRunner().invoke(cli, [*command[:3], "--tokens=../x=y", *command[4:], "--force"])
    assert isinstance(wrong.exception, DataError)


def test_a_store_given_as_text_is_sent_here(corpus: Corpus, tmp_path: Path) -> None:
    command = ["data", "prepare", str(tmp_path / "out"), f"--source=beta={corpus.path / 'beta.train.bin'}"]
    assert "unipool-dist data adopt" in str(CliRunner().invoke(cli, command).exception)
