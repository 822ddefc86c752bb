"""A tokenizer of the user's: its ids are those of its own library, and what ends documents is known or asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from click.testing import CliRunner

from tests.data.made_tokenizers import (
    TOKENIZER_JSONS,
    byte_level_bpe,
    odd_texts,
    sentencepiece_model,
    split_bpe,
    unigram,
    wordpiece,
)
from unipool_dist.checkpoint.offline.export_tokenizer import copy_tokenizer
from unipool_dist.cli import cli
from unipool_dist.data import Corpus, Tokenizer
from unipool_dist.data.given_tokenizer import given_tokenizer
from unipool_dist.data.tokenizer import load_tokenizer
from unipool_dist.data.vocabulary import tokenizer_record
from unipool_dist.errors import DataError

TEXTS = odd_texts(1, 1000)
ENDS = {"byte-level BPE": "<|endoftext|>", "split BPE": "<|end_of_text|>", "unigram": "</s>", "WordPiece": "[SEP]"}


@pytest.fixture(scope="module", params=TOKENIZER_JSONS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A kind and its ``tokenizer.json``."""
    return request.param, TOKENIZER_JSONS[request.param](tmp_path_factory.mktemp("made") / "tokenizer.json")


def taken(path: Path, folder: Path, eod_token: str | None = None) -> Tokenizer:
    """The tokenizer at ``path``, as a corpus in ``folder`` has it."""
    given = given_tokenizer(path, eod_token)
    folder.mkdir(exist_ok=True)
    given.write(folder)
    record = tokenizer_record(given.kind, folder)
    assert record.sha256 == given.sha256
    return load_tokenizer(given.kind, folder, record.sha256)


def library_of(path: Path) -> Any:
    library = tokenizers.Tokenizer.from_file(str(path))
    library.no_truncation()
    library.no_padding()
    return library


def test_a_tokenizer_json_gives_the_ids_and_texts_of_its_library(made: tuple[str, Path], tmp_path: Path) -> None:
    kind, path = made
    tokenizer, library = taken(path, tmp_path / "corpus"), library_of(path)
    expected = [library.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert tokenizer.encode_batch(TEXTS) == expected
    assert [tokenizer.encode(text) for text in TEXTS[:100]] == expected[:100]
    assert sum(map(len, expected)) > 5000
    decoded = [tokenizer.decode([*ids, tokenizer.eod]) for ids in expected]
    assert decoded == [library.decode(ids, skip_special_tokens=False) for ids in expected]
    if "BPE" in kind:
        assert decoded == TEXTS
    assert tokenizer.vocab_size == library.get_vocab_size()


def test_what_ends_documents_is_known_and_no_text_spells_it(made: tuple[str, Path], tmp_path: Path) -> None:
    kind, path = made
    tokenizer, end = taken(path, tmp_path / "corpus"), ENDS[kind]
    assert tokenizer.eod == tokenizer.special_tokens[end] == library_of(path).token_to_id(end)
    assert library_of(path).encode(end, add_special_tokens=False).ids == [tokenizer.eod]  # what the library would do
    for text in (end, f"a{end}b", f" {end} {end}", f"{end}\n"):
        ids = tokenizer.encode(text)
        assert tokenizer.eod not in ids
        if "BPE" in kind:
            assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("options", [{}, {"model_type": "bpe", "byte_fallback": True, "vocab_size": 400}])
def test_a_sentencepiece_model_gives_the_ids_and_texts_of_its_library(options: dict[str, Any], tmp_path: Path) -> None:
    path = sentencepiece_model(tmp_path / "spiece.model", **options)
    tokenizer, library = taken(path, tmp_path / "corpus"), sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert tokenizer.encode_batch(TEXTS) == library.encode(TEXTS)
    assert [tokenizer.decode([*ids, tokenizer.eod]) for ids in library.encode(TEXTS)] == library.decode(
        library.encode(TEXTS)
    )
    assert (tokenizer.vocab_size, tokenizer.eod) == (library.vocab_size(), library.eos_id())
    assert tokenizer.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2}
    assert (tmp_path / "corpus" / "tokenizer.model").read_bytes() == path.read_bytes()


def test_a_sentencepiece_model_without_an_end_takes_the_one_named(tmp_path: Path) -> None:
    path = sentencepiece_model(tmp_path / "m.model", eos_id=-1, user_defined_symbols=["<|end|>"])
    with pytest.raises(DataError, match=r"no symbol for the end .*--eod-token"):
        given_tokenizer(path)
    with pytest.raises(DataError, match="no piece --eod-token '<nowhere>'"):
        given_tokenizer(path, "<nowhere>")
    tokenizer, library = taken(path, tmp_path / "corpus", "<|end|>"), sentencepiece.SentencePieceProcessor(str(path))
    assert tokenizer.eod == library.piece_to_id("<|end|>") in library.encode("a<|end|>b")
    assert tokenizer.eod not in tokenizer.encode("a<|end|>b")
    assert tokenizer.encode_batch(TEXTS) == library.encode(TEXTS)
    assert given_tokenizer(tmp_path / "corpus").sha256 == given_tokenizer(path, "<|end|>").sha256


def test_chance_and_lengths_in_a_tokenizer_json_change_nothing(tmp_path: Path) -> None:
    path = byte_level_bpe(tmp_path / "tokenizer.json")
    expected = taken(path, tmp_path / "one").encode_batch(TEXTS)
    values = json.loads(path.read_text())
    values["model"]["dropout"] = 0.5
    path.write_text(json.dumps(values))
    assert taken(path, tmp_path / "two").encode_batch(TEXTS) == expected


def test_what_ends_documents_is_found_in_the_files_of_a_model(tmp_path: Path) -> None:
    path = unigram(tmp_path / "tokenizer.json")

    def end() -> str:
        return str(json.loads(given_tokenizer(tmp_path).files["tokenizer_config.json"])["eos_token"])

    assert end() == "</s>"  # the only special token with the name of an end
    (tmp_path / "config.json").write_text('{"eos_token_id": 1}')
    assert end() == "<s>"
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')  # ends of turns: not one of them
    assert end() == "<s>"
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    assert end() == "</s>"
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<s>"}}')
    assert end() == "<s>"
    assert given_tokenizer(path, "</s>").sha256 != given_tokenizer(path).sha256  # other documents, another tokenizer
    for name in ("config.json", "generation_config.json", "special_tokens_map.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    values = json.loads(path.read_text())
    values["added_tokens"].append({**values["added_tokens"][0], "id": 400, "content": "<|endoftext|>"})
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"special tokens: <unk>, <s>, </s>, <\|endoftext\|>.*--eod-token"):
        given_tokenizer(path)
    with pytest.raises(DataError, match=r"no token 'x y' .*--eod-token"):
        given_tokenizer(path, "x y")
    with pytest.raises(DataError, match="stands for unknown text"):
        given_tokenizer(path, "<unk>")


def test_a_second_corpus_has_the_first_ones_tokenizer(
    corpus: Corpus, sources: dict[str, str], prepared: Callable[..., Corpus]
) -> None:
    second = prepared({"beta": sources["beta"]}, tokenizer=corpus.path)
    assert second.tokenizer_hash == corpus.tokenizer_hash
    assert second.manifest.options["tokenizer"] == corpus.tokenizer_hash
    assert second.domains["beta"].train_tokens == corpus.domains["beta"].train_tokens


@pytest.mark.parametrize("make", [split_bpe, wordpiece])
def test_a_corpus_is_prepared_with_a_tokenizer_json(
    make: Callable[[Path], Path], sources: dict[str, str], prepared: Callable[..., Corpus], tmp_path: Path
) -> None:
    corpus = prepared({"beta": sources["beta"]}, tokenizer=make(tmp_path / "tokenizer.json"))
    record = corpus.manifest.tokenizer
    assert (record.kind, record.vocab_size, record.eod) == (
        "huggingface", corpus.tokenizer.vocab_size, corpus.tokenizer.eod,
    )  # fmt: skip
    assert record.special_tokens[ENDS["split BPE" if make is split_bpe else "WordPiece"]] == record.eod
    assert given_tokenizer(corpus.path).sha256 == corpus.tokenizer_hash
    (corpus.path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer_config\.json has 2 bytes"):
        Corpus.open(corpus.path)


def test_a_folder_has_the_tokenizer_that_its_record_names(corpus: Corpus, tmp_path: Path) -> None:
    export = tmp_path / "export"
    export.mkdir()
    shutil.copy(corpus.path / "tokenizer.model", export)
    byte_level_bpe(export / "tokenizer.json")  # a converted one, for other programs
    assert given_tokenizer(export).kind == "huggingface"
    (export / "export.json").write_text(json.dumps({"tokenizer_hash": corpus.tokenizer_hash}))
    assert given_tokenizer(export).sha256 == corpus.tokenizer_hash


def test_gpt2s_files_of_hugging_face_are_found(tmp_path: Path) -> None:
    library_of(byte_level_bpe(tmp_path / "tokenizer.json")).model.save(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    assert given_tokenizer(tmp_path).kind == "gpt2"
    with pytest.raises(DataError, match="leave out --eod-token"):
        given_tokenizer(tmp_path, "</s>")


def test_what_is_not_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.* does not exist"):
        given_tokenizer(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no tokenizer.*tokenizer\.json"):
        given_tokenizer(tmp_path)
    path = tmp_path / "file"
    for content in (b"", b"text", b"{", b"[]", b'{"model": 1}', b'{"a": ' + b"[" * 100, b'{"model": {"vocab": []}}'):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"--tokenizer .*file cannot be used: "):
            given_tokenizer(path)


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "a huge id": lambda values: values["model"]["vocab"].update(x=(1 << 31) - 1),
    "a negative id": lambda values: values["model"]["vocab"].update(x=-1),
    "an unknown model": lambda values: values["model"].update(type="Own"),
    "two ids": lambda values: values["added_tokens"][1].update(id=300),
    "ids apart": lambda values: values["added_tokens"].append({**values["added_tokens"][0], "id": 900, "content": "z"}),
    "merges of nothing": lambda values: values["model"]["merges"].append(["no", "where"]),
    "no expression": lambda values: values.update(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_tokenizer_json_that_contradicts_itself_is_refused(name: str, tmp_path: Path) -> None:
    path = byte_level_bpe(tmp_path / "tokenizer.json")
    values = json.loads(path.read_text())
    BROKEN[name](values)
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match="tokenizer"):
        taken(path, tmp_path / "corpus")


def test_a_corpus_of_an_earlier_version_is_open_to_all(corpus: Corpus, sources: dict[str, str], tmp_path: Path) -> None:
    """Its manifest has no special tokens, and its tokenizer can be used for another corpus."""
    old = Path(shutil.copytree(corpus.path, tmp_path / "old"))
    values = json.loads((old / "manifest.json").read_text())
    del values["tokenizer"]["special_tokens"]
    (old / "manifest.json").write_text(json.dumps(values))
    opened = Corpus.open(old, verify="hash")
    assert opened.tokenizer.eod == corpus.tokenizer.eod
    assert opened.content_hash == corpus.content_hash
    shown = CliRunner().invoke(cli, ["data", "show", str(old)], catch_exceptions=False).output
    assert f"documents end with token {corpus.tokenizer.eod}\n" in shown
    assert given_tokenizer(old).sha256 == corpus.tokenizer_hash


def test_what_the_library_cannot_bear_is_an_error(tmp_path: Path) -> None:
    """A panic of Rust is not an exception of Python's."""
    path = unigram(tmp_path / "tokenizer.json")
    values = json.loads(path.read_text())
    values["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA////"}
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match="cannot be"):
        taken(path, tmp_path / "corpus").encode("a text")


def test_an_export_has_the_files_of_a_tokenizer_json(
    sources: dict[str, str], prepared: Callable[..., Corpus], tmp_path: Path
) -> None:
    corpus = prepared({"beta": sources["beta"]}, tokenizer=byte_level_bpe(tmp_path / "tokenizer.json"))
    out = tmp_path / "export"
    out.mkdir()
    names, missing = copy_tokenizer(corpus.path, corpus.tokenizer_hash, out)
    assert (names, missing) == (("tokenizer.json", "tokenizer_config.json"), None)
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    assert given_tokenizer(out).sha256 == corpus.tokenizer_hash
