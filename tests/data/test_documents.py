"""Choosing and splitting documents: validation is never empty, never trained on, and of about the wanted size."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipool_dist.data.documents import (
    MIN_DOCUMENTS,
    MIN_VALIDATION_BYTES,
    Document,
    Sieve,
    clean,
    key_of,
    split_documents,
    unique_documents,
)
from unipool_dist.errors import DataError


def texts_of(documents: list[Document], seen: set[str] | None = None) -> list[str]:
    return [document.text for document in unique_documents(documents, "d", set() if seen is None else seen)]


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 60_000), min_size=2, max_size=80),
    fraction=st.floats(0.01, 0.25),
)
def test_both_sides_have_documents_and_share_none(sizes: list[int], fraction: float) -> None:
    keys = [key_of(f"{i}" + "x" * size) for i, size in enumerate(sizes)]
    split = split_documents(keys, "d", fraction, None)
    assert split.train
    assert split.validation
    assert sorted(split.train + split.validation) == list(range(len(sizes)))
    held_out = sum(keys[i].num_bytes for i in split.validation)
    total = sum(key.num_bytes for key in keys)
    target = max(fraction * total, min(MIN_VALIDATION_BYTES, total / 4))
    assert held_out <= 2 * target or len(split.validation) == 1


def test_validation_reaches_its_fraction_when_documents_are_small() -> None:
    keys = [key_of(f"{i:05d}" * 200) for i in range(2000)]  # 2 MB in documents of 1 kB
    split = split_documents(keys, "d", 0.04, None)
    assert 0.04 <= len(split.validation) / 2000 <= 0.041


def test_split_does_not_depend_on_the_order_of_documents() -> None:
    keys = [key_of(f"document {i} " * 50) for i in range(200)]
    chosen = {keys[i].sha256 for i in split_documents(keys, "d", 0.05, 60_000).validation}
    shuffled = keys[::-1]
    assert {shuffled[i].sha256 for i in split_documents(shuffled, "d", 0.05, 60_000).validation} == chosen


def test_equal_documents_are_on_the_same_side() -> None:
    draw = random.Random(3)
    for _ in range(50):
        keys = [key_of(f"text {draw.randrange(12)} " * 500) for _ in range(60)]
        split = split_documents(keys, "d", 0.1, None)
        assert split.train and split.validation
        assert not {keys[i].sha256 for i in split.train} & {keys[i].sha256 for i in split.validation}
    with pytest.raises(DataError, match="only 1 of the 40 documents"):
        split_documents([key_of("the same")] * 40, "d", 0.1, None)


def test_what_is_held_out_is_not_trained_on_whether_equal_documents_are_kept_or_not() -> None:
    first, second = key_of("held out"), key_of("trained on")
    for dedup, again in ((True, "duplicate"), (False, None)):
        sieve = Sieve(dedup=dedup)
        assert [sieve.drops(first, held_out=True) for _ in range(2)] == [None, again]
        assert [sieve.drops(key) for key in (first, second, second)] == ["duplicate", None, again]


def test_cap_keeps_at_most_the_given_bytes() -> None:
    keys = [key_of(f"document {i} " * 50) for i in range(200)]
    split = split_documents(keys, "d", 0.05, 30_000)
    kept = sum(keys[i].num_bytes for i in split.train + split.validation)
    assert 29_000 < kept <= 30_000
    with pytest.raises(DataError, match="max_bytes_per_domain=700"):
        split_documents(keys, "d", 0.05, 700)


def test_equal_documents_are_kept_once_across_domains() -> None:
    seen: set[str] = set()
    first = texts_of([Document(str(i), f"text {i % 50}") for i in range(100)], seen)
    assert sorted(first) == sorted({f"text {i}" for i in range(50)})
    second = texts_of([Document(str(i), f"text {i}\r\n") for i in range(45, 100)], seen)
    assert sorted(second) == sorted({f"text {i}" for i in range(50, 100)})


@pytest.mark.parametrize("separator", ["\n\n", "\n"])
def test_one_long_text_is_cut_at_paragraphs_and_loses_nothing(separator: str) -> None:
    paragraphs = [f"paragraph {i} says something of its own" for i in range(500)]
    blocks = texts_of([Document("only", separator.join(paragraphs))])
    assert MIN_DOCUMENTS <= len(blocks) <= 2 * MIN_DOCUMENTS
    assert separator.join(blocks).split(separator) == paragraphs


def test_a_text_that_cannot_be_cut_is_an_error() -> None:
    with pytest.raises(DataError, match="1 distinct documents"):
        texts_of([Document("only", "one line without an end")])


def test_clean_text_can_always_be_encoded() -> None:
    assert clean(" a\r\nb\ud800 ") == "a\nb?"
