"""Choose and split a domain's documents: pure functions with the same result on every machine.

Guarantees: no two documents of a corpus are equal; validation is never empty and no validation document is trained on;
the choice depends only on the documents' bytes, never on their order, names or the clock.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal

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
class DocumentKey:
    """The facts about a document that the split needs."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """Positions of the documents of each side: ``train`` in source order, ``validation`` in order of their hash.

    Thanks to hash order, the first few validation sequences are a sample of the whole domain, not of its first chapter.
    """

    train: list[int]
    validation: list[int]


def key_of(text: str) -> DocumentKey:
    """Return the size of ``text`` in bytes of UTF-8, and its hash."""
    data = text.encode()
    return DocumentKey(len(data), hashlib.sha256(data).hexdigest())


def clean(text: str) -> str:
    """Return ``text`` with Unix line ends, stripped, and lone surrogates, which cannot be encoded, replaced."""
    return text.replace("\r\n", "\n").encode("utf-8", "replace").decode("utf-8").strip()


Drop = Literal["empty", "duplicate"]


class Sieve:
    """Decides from keys alone which documents are kept: not empty, and each text once.

    Keys are given in the order of the sources, of their units and of the rows. ``seen`` holds the hashes of what was
    kept, over all domains. With ``dedup`` false equal documents are kept as often as they come, except those that are
    equal to a held-out one.
    """

    def __init__(self, seen: set[str] | None = None, *, dedup: bool = True) -> None:
        self.seen = set() if seen is None else seen
        self.dedup = dedup

    def drops(self, key: DocumentKey, *, held_out: bool = False) -> Drop | None:
        """Return why the document of this key is dropped, or ``None`` if it is kept, and known from now on.

        Args:
            held_out: it is of a validation of its own. All of these come before the first other document.
        """
        if key.num_bytes == 0:
            return "empty"
        if key.sha256 in self.seen and (self.dedup or not held_out):
            return "duplicate"
        if self.dedup or held_out:
            self.seen.add(key.sha256)
        return None


def unique_documents(
    documents: Iterable[Document],
    domain: str,
    seen: set[str],
    *,
    dedup: bool = True,
    held_out: bool = False,
    dropped: Callable[[Drop, str], None] = lambda why, name: None,
) -> Iterator[Document]:
    """Clean ``documents``, drop empty ones and those whose hash is in ``seen``, and add the rest to ``seen``.

    Sources with fewer than ``MIN_DOCUMENTS`` documents are first cut into blocks of paragraphs.

    Args:
        dedup: drop equal documents.
        held_out: they are a validation of its own, which stays as it is and may be a single document.
        dropped: called with the reason and the name of each that is dropped.

    Raises:
        DataError: fewer than two documents are left.
    """
    stream = iter(documents)
    head = list(islice(stream, MIN_DOCUMENTS))
    if len(head) < MIN_DOCUMENTS and not held_out:
        head = cut_short(head)
    sieve = Sieve(seen, dedup=dedup)
    passed = 0
    for document in chain(head, stream):
        text = clean(document.text)
        why = sieve.drops(key_of(text), held_out=held_out)
        if why is None:
            passed += 1
            yield Document(document.name, text)
        else:
            dropped(why, document.name)
    check_enough(passed, domain, 1 if held_out else 2)


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


def split_documents(keys: Sequence[DocumentKey], domain: str, fraction: float, max_bytes: int | None) -> Split:
    """Choose at most ``max_bytes`` of the documents, then about ``fraction`` of their bytes for validation.

    Documents enter validation in the order of their hash until the fraction is reached; one that would take validation
    past twice its target is left to training. Equal documents, if there are any, are on the same side. The cap uses the
    hash read backwards, so that it does not bias the split.

    Raises:
        DataError: ``fraction`` is outside (0, 0.25], or fewer than two documents fit under ``max_bytes``.
    """
    if not 0.0 < fraction <= MAX_VALIDATION_FRACTION:
        raise DataError(f"validation_fraction={fraction} is outside (0, {MAX_VALIDATION_FRACTION}]: use 0.04")
    kept = _capped(keys, max_bytes)
    equal: dict[str, list[int]] = {}
    for i in kept:
        equal.setdefault(keys[i].sha256, []).append(i)
    if len(equal) < 2:
        raise DataError(
            f"only {len(equal)} of the {len(keys)} documents of domain {domain!r} fit under "
            f"max_bytes_per_domain={max_bytes}, equal ones counted once: raise it"
        )
    size = {sha256: len(copies) * keys[copies[0]].num_bytes for sha256, copies in equal.items()}
    total = sum(size.values())
    target = max(fraction * total, min(MIN_VALIDATION_BYTES, total / 4))
    validation: list[int] = []
    taken = 0
    for sha256 in sorted(equal):
        if taken >= target:
            break
        if taken + size[sha256] <= 2 * target:
            validation += equal[sha256]
            taken += size[sha256]
    if not validation:
        validation = equal[min(equal, key=lambda sha256: (size[sha256], sha256))]
    held_out = set(validation)
    return Split(train=[i for i in kept if i not in held_out], validation=validation)


def split_given(keys: Sequence[DocumentKey], num_validation: int, domain: str, max_bytes: int | None) -> Split:
    """Hold out the first ``num_validation`` documents, which are the user's, and choose at most ``max_bytes`` others.

    Raises:
        DataError: no other document fits under ``max_bytes``.
    """
    train = [num_validation + i for i in _capped(keys[num_validation:], max_bytes)]
    if not train:
        raise DataError(
            f"none of the {len(keys) - num_validation} training documents of domain {domain!r} fits under "
            f"max_bytes_per_domain={max_bytes}: raise it"
        )
    return Split(train=train, validation=sorted(range(num_validation), key=lambda i: keys[i].sha256))


def _capped(keys: Sequence[DocumentKey], max_bytes: int | None) -> list[int]:
    if max_bytes is None:
        return list(range(len(keys)))
    kept, taken = [], 0
    for i in sorted(range(len(keys)), key=lambda i: keys[i].sha256[::-1]):
        if taken + keys[i].num_bytes <= max_bytes:
            kept.append(i)
            taken += keys[i].num_bytes
    return sorted(kept)
