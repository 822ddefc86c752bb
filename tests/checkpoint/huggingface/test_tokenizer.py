"""Tokenizers as transformers loads them: the same tokens as in training, of any text."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoint.command_line import call, document, fail, succeed
from tests.checkpoint.huggingface.asking import ask, needs_transformers
from tests.support.runs import write_sources
from tests.support.using import validation_of_training, with_run
from tests.support.workers import Workers, free_port
from unipool_dist.checkpoint.huggingface.tokenizer import fast_tokenizer, write_tokenizer
from unipool_dist.data.given_tokenizer import given_tokenizer
from unipool_dist.data.tokenizer import Tokenizer
from unipool_dist.errors import DataError
from unipool_dist.inference.generation import continuation
from unipool_dist.inference.opened import OpenedRun
from unipool_dist.inference.sampler import Sampling

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")


@pytest.fixture(scope="module")
def both(tiny_corpus: Path) -> tuple[Any, Tokenizer]:
    return fast_tokenizer(tiny_corpus, "sentencepiece", "hash")


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_sentencepiece_and_its_copy_give_the_same_tokens(both: tuple[Any, Tokenizer], text: str) -> None:
    fast, ours = both
    assert fast.encode(text).ids == ours.encode(text)
    assert fast.decode(ours.encode(text)) == ours.decode(ours.encode(text))


def test_so_do_they_of_the_text_of_the_corpus(both: tuple[Any, Tokenizer], tmp_path: Path) -> None:
    fast, ours = both
    for path in write_sources(tmp_path).values():
        for row in path.read_text().splitlines()[:200]:
            assert fast.encode(row).ids == ours.encode(row)


def test_gpt2_and_its_copy_give_the_same_tokens(tmp_path: Path) -> None:
    words = [" the", "in", "re", " a", "on", "'s", "ing", "th"]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator([word * 9 for word in words], vocab_size=300, special_tokens=["<|endoftext|>"])
    assert len(alphabet) == 256
    trained.save_model(str(tmp_path))
    (tmp_path / "vocab.json").rename(tmp_path / "encoder.json")
    (tmp_path / "merges.txt").rename(tmp_path / "vocab.bpe")
    fast, ours = fast_tokenizer(tmp_path, "gpt2", "hash")
    draw = random.Random(0)
    for _ in range(200):
        text = "".join(draw.choice([*words, " ", "\n", "é", "<|endoftext|>", "7", "\u2581"]) for _ in range(20))
        assert fast.encode(text).ids == ours.encode(text)
        assert fast.decode(ours.encode(text)) == ours.decode(ours.encode(text)) == text


def test_one_of_hugging_face_stays_as_it_is_and_keeps_its_identity(both: tuple[Any, Tokenizer], tmp_path: Path) -> None:
    both[0].save(str(tmp_path / "tokenizer.json"))
    given = given_tokenizer(tmp_path / "tokenizer.json", "<eod>")
    given.write(tmp_path)
    ours, names = write_tokenizer(tmp_path, "huggingface", given.sha256, 128)
    assert (tmp_path / "tokenizer.json").read_bytes() == given.files["tokenizer.json"]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (config["eos_token"], config["model_max_length"], ours.eod) == ("<eod>", 128, both[1].eod)
    assert given_tokenizer(tmp_path).sha256 == given.sha256 and set(names) == set(given.files)


def test_one_that_has_no_such_form_is_refused(tmp_path: Path) -> None:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["one two three four five six"] * 9),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="char",
        vocab_size=20,
        minloglevel=2,
    )
    with pytest.raises(DataError, match="of words or characters"):
        fast_tokenizer(tmp_path, "sentencepiece", "hash")


def _continue(run: OpenedRun, prompt: str, count: int) -> tuple[list[int], str]:
    tokenizer = run.corpus.tokenizer
    tokens = tokenizer.encode(prompt)
    following = list(continuation(run, tokens, count, Sampling(0.0, 1.0, 0)))
    return tokens, tokenizer.decode([*tokens, *following])


@needs_transformers
def test_text_is_continued_as_by_generate(workers: Workers, trained: Path, tmp_path: Path) -> None:
    done = document("export", trained, tmp_path / "out", "--format", "hf")
    assert done["tokenizer_missing"] is None
    prompt = "the <eod> quick\n  brown fox 17+25="
    ((tokens, text),) = workers.run(with_run, 1, trained, (), free_port(), _continue, prompt, 12)
    found = ask("write", tmp_path, tmp_path / "out", prompt, 12)
    assert found["tokens"] == tokens and found["with cache"] == found["without cache"] == text != prompt
    assert found["special"] == dict.fromkeys(("bos", "eos", "pad"), "<eod>")
    padding = list(range(320, 384))  # 320 tokens, and what makes them a multiple of 128
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["suppress_tokens"] == padding


def test_the_card_has_the_figures_of_the_run(trained: Path, tmp_path: Path) -> None:
    succeed("export", trained, tmp_path / "out", "--format", "hf")
    card = (tmp_path / "out" / "README.md").read_text()
    losses = validation_of_training(trained)["validation"]
    assert losses and all(f"| {name} | {loss:.4f} |" in card for name, loss in losses.items())
    assert "after 4 steps on 1,024 tokens" in card and "trust_remote_code=True" in card
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files >= {"config.json", "generation_config.json", "modeling_unipool.py", "tokenizer.json"}
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1


def test_as_is_for_models_of_transformers(trained: Path, tmp_path: Path) -> None:
    assert "--as is for --format hf" in call("export", trained, tmp_path / "out", "--as", "llama").stderr
    message = fail("export", trained, tmp_path / "out", "--format", "hf", "--as", "llama")
    assert "pool.router=norm, where it needs none" in message and not (tmp_path / "out").exists()
