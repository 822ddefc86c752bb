"""Small corpora made of invented words: no network, a second to prepare."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from unipool_dist.data import Corpus
from unipool_dist.data.prepare import PrepareOptions, prepare

VOCAB_SIZE = 400


def invented_texts(seed: int, count: int, words: int = 60) -> list[str]:
    """``count`` different texts over an alphabet that depends on the seed, so that domains differ."""
    draw = random.Random(seed)
    letters = draw.sample("abcdefghijklmnopqrstuvwxyz", 12)
    lexicon = ["".join(draw.choices(letters, k=draw.randint(2, 8))) for _ in range(200)]
    return [" ".join(draw.choices(lexicon, k=words)) + f"\nnumber {i}." for i in range(count)]


def write_jsonl(path: Path, texts: list[str], field: str = "text") -> Path:
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="session")
def make_texts() -> Callable[[int, int], list[str]]:
    """``make_texts(seed, count)``: different texts, the same each time."""
    return invented_texts


@pytest.fixture(scope="session")
def make_jsonl() -> Callable[..., Path]:
    """``make_jsonl(path, texts, field="text")``: writes a source and gives its path."""
    return write_jsonl


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two domains, the first with three times the text of the second."""
    folder = tmp_path_factory.mktemp("sources")
    return {
        "alpha": str(write_jsonl(folder / "alpha.jsonl", invented_texts(1, 300))),
        "beta": str(write_jsonl(folder / "beta.jsonl", invented_texts(2, 100))),
    }


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory, sources: dict[str, str]) -> Path:
    """A prepared corpus that tests only read."""
    out = tmp_path_factory.mktemp("prepared") / "corpus"
    prepare(out, PrepareOptions(sources=sources, vocab_size=VOCAB_SIZE))
    return out


@pytest.fixture(scope="session")
def corpus(corpus_dir: Path) -> Corpus:
    return Corpus.open(corpus_dir, verify="hash")


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Corpus]:
    """Prepares ``{name: location}`` under this test's folder and opens the result."""

    def prepare_and_open(sources: dict[str, str], vocab_size: int = VOCAB_SIZE, **options: object) -> Corpus:
        out = tmp_path / "out"
        prepare(out, PrepareOptions(sources=sources, vocab_size=vocab_size, **options))  # type: ignore[arg-type]
        return Corpus.open(out, verify="hash")

    return prepare_and_open
