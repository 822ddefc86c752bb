"""Choose and split a domain's documents: pure functions with the same result on every machine.

Guarantees: no two documents of a corpus are equal, unless that is asked for; validation is never empty and no
validation document is trained on; the choice depends only on the documents' bytes, never on their order, names or the
clock.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unipool_dist.data.keys import Keys, Rows
from unipool_dist.errors import DataError

MIN_DOCUMENTS = 32
"""A source with fewer documents than this is cut at paragraphs, so that a hash can split it."""
MIN_VALIDATION_BYTES = 16 * 1024
"""Text wanted for validation whatever the fraction (a few thousand tokens), up to a quarter of the domain."""
MAX_VALIDATION_FRACTION = 0.25


@dataclass(frozen=True)
class Document:
    """A text, and a name that says where in its source it comes from."""

    name: str
    text: str


@dataclass(frozen=True)
class Split:
    """Positions of the documents of each side: ``train`` in source order, ``validation`` in order of their hash.

    Thanks to hash order, the first few validation sequences are a sample of the whole domain, not of its first chapter.
    """

    train: Rows
    validation: Rows


def clean(text: str) -> str:
    """Return ``text`` with Unix line ends, stripped, and lone surrogates, which cannot be encoded, replaced."""
    return text.replace("\r\n", "\n").encode("utf-8", "replace").decode("utf-8").strip()


def check_enough(kept: int, domain: str, least: int = 2) -> None:
    """Refuse a domain with too few documents left.

    Raises:
        DataError: there are fewer than ``least``: of two, validation and training have one each.
    """
    if kept < least:
        raise DataError(
            f"domain {domain!r} has {kept} distinct documents, and validation needs one that is not trained on: "
            f"add documents, or separate the paragraphs of the text by line breaks; documents that are equal to those "
            f"of a domain before it do not count"
        )


def cut_short(documents: Sequence[Document]) -> list[Document]:
    """Cut ``documents``, fewer than ``MIN_DOCUMENTS``, into about ``2 * MIN_DOCUMENTS`` equal blocks.

    They are cut at blank lines, or else at line ends.
    """
    total = sum(len(document.text) for document in documents)
    target = min(max(total // (2 * MIN_DOCUMENTS), 1), 16 * 1024)
    blocks: list[Document] = []
    for document in documents:
        text = clean(document.text)
        pieces = re.split(r"(?<=\n)\s*\n", text)  # a piece keeps the line end before the blank line
        if len(pieces) == 1:
            pieces = text.split("\n")
        block: list[str] = []
        length = 0
        for i, piece in enumerate(pieces):
            block.append(piece)
            length += len(piece)
            if length >= target or i == len(pieces) - 1:
                blocks.append(Document(f"{document.name}#{len(blocks)}", "\n".join(block)))
                block, length = [], 0
    return blocks


def split_documents(keys: Keys, domain: str, fraction: float, max_bytes: int | None) -> Split:
    """Choose at most ``max_bytes`` of the documents, then about ``fraction`` of their bytes for validation.

    Documents enter validation in the order of their hash until the fraction is reached; one that would take validation
    past twice its target is left to training. Equal documents stay together. The cap uses the hash read backwards, so
    that it does not bias the split.

    Raises:
        DataError: ``fraction`` is outside (0, 0.25], or fewer than two distinct documents fit under ``max_bytes``.
    """
    if not 0.0 < fraction <= MAX_VALIDATION_FRACTION:
        raise DataError(f"validation_fraction={fraction} is outside (0, {MAX_VALIDATION_FRACTION}]: use 0.04")
    kept = _capped(keys, max_bytes)
    keys_kept = keys.subset(kept)
    order = keys_kept.by_hash()
    starts = keys_kept.starts_of_equal(order)
    if len(starts) < 2:
        raise DataError(
            f"only {len(starts)} of the {len(keys)} documents of domain {domain!r} fit under "
            f"max_bytes_per_domain={max_bytes}, equal ones counted once: raise it"
        )
    sizes = np.add.reduceat(keys_kept.sizes[order], starts)  # of all documents that are equal
    total = int(sizes.sum())
    target = max(fraction * total, min(MIN_VALIDATION_BYTES, total / 4))
    held_out: list[int] = []
    taken = 0
    for i, size in enumerate(map(int, sizes)):
        if taken >= target:
            break
        if taken + size <= 2 * target:
            held_out.append(i)
            taken += size
    if not held_out:
        held_out = [int(np.argmin(sizes))]  # of several the first, by hash
    copies = np.diff(np.append(starts, len(order)))
    chosen = np.zeros(len(starts), bool)
    chosen[held_out] = True
    validation = kept[order[np.repeat(chosen, copies)]]
    return Split(train=np.setdiff1d(kept, validation, assume_unique=True), validation=validation)


def split_given(keys: Keys, num_validation: int, domain: str, max_bytes: int | None) -> Split:
    """Hold out the first ``num_validation`` documents, which are the user's, and choose at most ``max_bytes`` others.

    Raises:
        DataError: no other document fits under ``max_bytes``.
    """
    validation = np.arange(num_validation)
    others = np.arange(num_validation, len(keys))
    train = others[_capped(keys.take(others), max_bytes)]
    if not len(train):
        raise DataError(
            f"none of the {len(others)} training documents of domain {domain!r} fits under "
            f"max_bytes_per_domain={max_bytes}: raise it"
        )
    return Split(train=train, validation=keys.take(validation).by_hash())


def _capped(keys: Keys, max_bytes: int | None) -> Rows:
    if max_bytes is None:
        return np.arange(len(keys))
    kept, taken = [], 0
    order = keys.by_reversed_hash()
    for i, size in zip(order, map(int, keys.sizes[order]), strict=True):
        if taken + size <= max_bytes:
            kept.append(i)
            taken += size
    return np.sort(np.array(kept, np.int64))
