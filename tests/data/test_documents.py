"""Choosing and splitting documents: validation is never empty, never trained on, and of about the wanted size."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipool_dist.base.progress_bars import Progress
from unipool_dist.data.building import Builder, Recipe
from unipool_dist.data.documents import (
    MIN_DOCUMENTS,
    MIN_VALIDATION_BYTES,
    Document,
    clean,
    split_documents,
)
from unipool_dist.data.keys import Keys
from unipool_dist.data.selection import Choice, select
from unipool_dist.data.shares import Share
from unipool_dist.data.sources import Source
from unipool_dist.data.sources.base import FunctionUnit
from unipool_dist.data.spool import Spool
from unipool_dist.data.work import Work
from unipool_dist.data.workers import Workers
from unipool_dist.errors import DataError


def keys_of(texts: list[str]) -> Keys:
    return Keys.of(text.encode() for text in texts)


def texts_of(folder: Path, *domains: list[Document], dedup: bool = True) -> list[list[str]]:
    """The documents of each domain that are kept, in order."""
    spools = spools_of(folder, [Source(f"d{i}", [], partial(iter, docs)) for i, docs in enumerate(domains)], dedup)
    return [
        list(spool.texts.places(np.sort(np.concatenate([spool.split.train, spool.split.validation]))).read())
        for spool in spools
    ]


def spools_of(folder: Path, sources: list[Source], dedup: bool) -> list[Spool]:
    recipe = Recipe(sources, None, Choice(0.04, None, dedup), None, 400)
    read = Builder(recipe, Work(folder, "of a test"), Workers(1), Progress(show=False), Share()).read()
    assert isinstance(read, list)
    return select(read, recipe.choice)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 60_000), min_size=2, max_size=80),
    fraction=st.floats(0.01, 0.25),
)
def test_both_sides_have_documents_and_share_none(sizes: list[int], fraction: float) -> None:
    keys = keys_of([f"{i}" + "x" * size for i, size in enumerate(sizes)])
    split = split_documents(keys, "d", fraction, None)
    assert len(split.train)
    assert len(split.validation)
    assert sorted([*split.train, *split.validation]) == list(range(len(sizes)))
    held_out = keys.sizes[split.validation].sum()
    total = keys.sizes.sum()
    target = max(fraction * total, min(MIN_VALIDATION_BYTES, total / 4))
    assert held_out <= 2 * target or len(split.validation) == 1


def test_validation_reaches_its_fraction_when_documents_are_small() -> None:
    keys = keys_of([f"{i:05d}" * 200 for i in range(2000)])  # 2 MB in documents of 1 kB
    split = split_documents(keys, "d", 0.04, None)
    assert 0.04 <= len(split.validation) / 2000 <= 0.041


def test_split_does_not_depend_on_the_order_of_documents() -> None:
    keys = keys_of([f"document {i} " * 50 for i in range(200)])
    chosen = keys.take(split_documents(keys, "d", 0.05, 60_000).validation).digests
    shuffled = keys.take(np.arange(200)[::-1])
    assert (shuffled.take(split_documents(shuffled, "d", 0.05, 60_000).validation).digests == chosen).all()


def test_equal_documents_are_on_the_same_side() -> None:
    draw = random.Random(5)
    for _ in range(50):
        keys = keys_of([f"text {draw.randrange(12)} " * 500 for _ in range(60)])
        split = split_documents(keys, "d", 0.1, None)
        assert len(split.train) and len(split.validation)
        assert len(split.train) + len(split.validation) == 60
        train, validation = ({bytes(row) for row in keys.digests[side]} for side in (split.train, split.validation))
        assert not train & validation
    with pytest.raises(DataError, match="only 1 of the 40 documents"):
        split_documents(keys_of(["the same"] * 40), "d", 0.1, None)


@pytest.mark.parametrize("dedup", [True, False])
def test_what_is_held_out_is_not_trained_on_whether_equal_documents_are_kept_or_not(
    dedup: bool, tmp_path: Path
) -> None:
    """Nor by a domain that comes before."""
    held_out = Document("v", "held out")
    twice = [Document(str(i), f"text {i // 2}") for i in range(80)]
    before = Source("before", [], partial(iter, [held_out, *(Document(str(i), f"other {i}") for i in range(40))]))
    source = Source("d", [], partial(iter, [held_out, *twice]), [FunctionUnit("v", partial(iter, [held_out] * 2))])
    spools = spools_of(tmp_path, [before, source], dedup)
    texts = [[list(spool.texts.places(rows).read()) for rows in vars(spool.split).values()] for spool in spools]
    assert sorted([*texts[0][0], *texts[0][1]]) == sorted(f"other {i}" for i in range(40))
    assert texts[1][0] == [f"text {i // 2}" for i in range(0, 80, 2 if dedup else 1)]
    assert texts[1][1] == ["held out"] * (1 if dedup else 2)


def test_cap_keeps_at_most_the_given_bytes() -> None:
    keys = keys_of([f"document {i} " * 50 for i in range(200)])
    split = split_documents(keys, "d", 0.05, 30_000)
    kept = keys.sizes[[*split.train, *split.validation]].sum()
    assert 29_000 < kept <= 30_000
    with pytest.raises(DataError, match="max_bytes_per_domain=700"):
        split_documents(keys, "d", 0.05, 700)


def test_equal_documents_are_kept_once_across_domains(tmp_path: Path) -> None:
    domains = (
        [Document(str(i), f"text {i % 50}") for i in range(100)],
        [Document(str(i), f"text {i}\r\n") for i in range(45, 100)],
    )
    first, second = texts_of(tmp_path, *domains)
    assert first == [f"text {i}" for i in range(50)]
    assert second == [f"text {i}" for i in range(50, 100)]
    first, second = texts_of(tmp_path, *domains, dedup=False)
    assert first == [f"text {i % 50}" for i in range(100)] and len(second) == 55


@pytest.mark.parametrize("separator", ["\n\n", "\n"])
def test_one_long_text_is_cut_at_paragraphs_and_loses_nothing(separator: str, tmp_path: Path) -> None:
    paragraphs = [f"paragraph {i} says something of its own" for i in range(500)]
    (blocks,) = texts_of(tmp_path, [Document("only", separator.join(paragraphs))])
    assert MIN_DOCUMENTS <= len(blocks) <= 2 * MIN_DOCUMENTS
    assert separator.join(blocks).split(separator) == paragraphs


def test_a_text_that_cannot_be_cut_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 distinct documents"):
        texts_of(tmp_path, [Document("only", "one line without an end")])


def digests() -> Iterator[bytes]:
    """Hashes that differ late, end in zeros, or are equal."""
    yield from (hashlib.sha256(b"%d" % i).digest() for i in range(200))
    yield from (b"\0" * 31 + b"\1", b"\1" + b"\0" * 31, b"\0" * 32, b"\xff" * 32, b"\0" * 31 + b"\1", b"\0" * 32)


def test_orders_of_keys_are_those_of_the_hashes_in_hexadecimal() -> None:
    """Corpora have been split by these orders since the first version."""
    hashes = list(digests())
    keys = Keys(np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32), np.arange(len(hashes)))
    rows = range(len(hashes))
    assert keys.by_hash().tolist() == sorted(rows, key=lambda i: hashes[i].hex())
    assert keys.by_reversed_hash().tolist() == sorted(rows, key=lambda i: hashes[i].hex()[::-1])
    assert keys.first_of_equal().tolist() == [hashes.index(one) for one in hashes]


def test_clean_text_can_always_be_encoded() -> None:
    assert clean(" a\r\nb\ud800 ") == "a\nb?"
