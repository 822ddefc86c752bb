"""Tokenizer files changed at random: each is refused, or gives ids of its vocabulary, never the end of a document."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.made_tokenizers import TOKENIZER_JSONS, odd_texts, sentencepiece_model
from unipool_dist.data.given_tokenizer import given_tokenizer
from unipool_dist.data.tokenizer import load_tokenizer
from unipool_dist.data.vocabulary import tokenizer_record
from unipool_dist.errors import DataError

TEXTS = [*odd_texts(3, 20), "</s>", "<|endoftext|> <|end_of_text|>", "[SEP]"]
VALUES: list[Any] = [None, -1, 0, 1 << 31, 1 << 70, 1e300, "", "x" * 100, [], {}, [[]], ["a"], {"a": 1}, True]
CHANGES = 60


def test_a_changed_tokenizer_json_is_refused_or_sound(tmp_path: Path) -> None:
    draw = random.Random(1)
    taken = 0
    for make in TOKENIZER_JSONS.values():
        original = make(tmp_path / "tokenizer.json").read_bytes()
        assert is_sound(tmp_path / "tokenizer.json", tmp_path)
        for _ in range(CHANGES):
            (tmp_path / "tokenizer.json").write_bytes(_changed(original, draw))
            taken += is_sound(tmp_path / "tokenizer.json", tmp_path)
    assert 0 < taken < CHANGES * len(TOKENIZER_JSONS)


def test_a_changed_sentencepiece_model_is_refused_or_sound(tmp_path: Path) -> None:
    draw = random.Random(2)
    original = sentencepiece_model(tmp_path / "m", normalization_rule_name="identity").read_bytes()
    assert is_sound(tmp_path / "m", tmp_path)
    taken = 0
    for _ in range(CHANGES):
        (tmp_path / "m").write_bytes(_other_bytes(original, draw))
        taken += is_sound(tmp_path / "m", tmp_path)
    assert 0 < taken < CHANGES


def is_sound(path: Path, folder: Path) -> bool:
    """Whether the tokenizer is taken. What it does then is checked; any other error than a user's fails the test."""
    out = folder / "corpus"
    out.mkdir(exist_ok=True)
    try:
        given = given_tokenizer(path)
        given.write(out)
        tokenizer = load_tokenizer(given.kind, out, tokenizer_record(given.kind, out).sha256)
        ids = tokenizer.encode_batch(TEXTS)
        for one in ids:
            tokenizer.decode(one)
    except DataError:
        return False
    assert all(0 <= i < tokenizer.vocab_size and i != tokenizer.eod for one in ids for i in one)
    return True


def _changed(original: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.3:
        return _other_bytes(original, draw)
    values = json.loads(original)
    *way, last = draw.choice([path for path in _paths(values) if path])
    place = values
    for step in way:
        place = place[step]
    place[last] = draw.choice(VALUES)
    return json.dumps(values).encode()


def _paths(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    steps: list[Any] = []
    if isinstance(values, dict):
        steps = list(values)[:40]
    elif isinstance(values, list):
        steps = list(range(min(len(values), 20)))
    for step in steps:
        yield from _paths(values[step], (*path, step))


def _other_bytes(original: bytes, draw: random.Random) -> bytes:
    data = bytearray(original)
    for _ in range(draw.randint(1, 4)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data[: draw.randrange(len(data))] if draw.random() < 0.2 else data)


@pytest.mark.parametrize("text", ['{"model": ' + "[" * 100_000, '{"a": 1}' * 2, "\x00" * 100])
def test_bombs_and_nonsense_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(DataError, match="cannot be used"):
        given_tokenizer(tmp_path / "tokenizer.json")
