"""Text inside Debian packages: Austen, an essay collection, two dictionaries, Python's manual, formal mathematics.

Each function turns a package's unpacked files into documents; large ones are thinned by hash to a few megabytes.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import struct
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser

from unipool_dist.data.documents import Document
from unipool_dist.data.sources.base import Files, text_of

MIN_DOCUMENT_CHARS = 500


def austen(janeaustenr: Files) -> Iterator[Document]:
    """Yield one document per chapter of six novels, read from the strings in R's lazy-load database (no R needed)."""
    (_, database), *_ = janeaustenr.matching(r"/data/Rdata\.rdb$")
    for number, record in enumerate(_records(database)):
        text = "\n".join(_strings(record))
        for i, chapter in enumerate(re.split(r"(?mi)^(?=chapter\b)", text)):
            if len(chapter) > MIN_DOCUMENT_CHARS:
                yield Document(f"austen/{number}/{i:03d}", chapter)


def _records(database: bytes) -> Iterator[bytes]:
    """Yield the records of R's format: each is its big-endian size and a zlib stream."""
    position = 0
    while position < len(database) - 6:
        stream = zlib.decompressobj()
        yield stream.decompress(database[position + 4 :])
        position = len(database) - len(stream.unused_data)


def _strings(record: bytes) -> Iterator[str]:
    """Yield the CHARSXP items of a serialised R object: flags (00 0x xx 09), big-endian length, bytes."""
    header = re.compile(rb"\x00[\x00-\x0f].\x09", re.S)
    position = 0
    while (match := header.search(record, position)) and match.end() + 4 <= len(record):
        (length,) = struct.unpack(">i", record[match.end() : match.end() + 4])
        if 0 <= length < 5000:  # lines of novels; anything else matched by accident
            yield text_of(record[match.end() + 4 : match.end() + 4 + length])
            position = match.end() + 4 + length
        else:
            position = match.start() + 1


class _PlainText(HTMLParser):
    """A parser that collects the text of a page, with line ends where blocks begin and end."""

    hidden = frozenset({"script", "style", "nav", "head", "svg", "footer"})
    blocks = frozenset(["p", "div", "br", "li", "h1", "h2", "h3", "h4", "tr", "pre", "dt", "dd", "blockquote"])

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.depth_hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.depth_hidden += tag in self.hidden
        if tag in self.blocks:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.depth_hidden = max(0, self.depth_hidden - (tag in self.hidden))
        if tag in self.blocks:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.depth_hidden:
            self.parts.append(data)


def essays(anarchism: Files) -> Iterator[Document]:
    """Yield one document per page of the Anarchist FAQ."""
    for name, data in anarchism.matching(r"\.html$"):
        parser = _PlainText()
        parser.feed(text_of(data))
        text = re.sub(r" ?\n ?", "\n", re.sub(r"[ \t]+", " ", "".join(parser.parts)))
        if len(text) > MIN_DOCUMENT_CHARS:
            yield Document(name, re.sub(r"\n{3,}", "\n\n", text))


def dictionary(package: Files, *, max_chars: int) -> Iterator[Document]:
    """Yield runs of 40 neighbouring entries of a dictd dictionary, at most ``max_chars`` in all."""
    (name, data), *_ = package.matching(r"\.dict\.dz$")
    entries = re.split(r"\n(?=\S)", text_of(gzip.decompress(data)))[20:]  # the first are about the dictionary itself
    yield from _thinned(name, ["\n".join(entries[i : i + 40]) for i in range(0, len(entries), 40)], max_chars)


def manual(python_doc: Files) -> Iterator[Document]:
    """Yield one document per page of Python's manual, in reStructuredText."""
    for name, data in python_doc.matching(r"/_sources/.*\.txt$"):
        if len(data) > MIN_DOCUMENT_CHARS:
            yield Document(name, text_of(data))


def theorems(metamath: Files, *, max_chars: int) -> Iterator[Document]:
    """Yield runs of 8 statement groups of set.mm, at most ``max_chars`` in all."""
    (name, data), *_ = metamath.matching(r"/set\.mm$")
    groups = re.split(r"\n(?=  \$\{)", text_of(data))
    yield from _thinned(name, ["\n".join(groups[i : i + 8]) for i in range(0, len(groups), 8)], max_chars)


def _thinned(name: str, blocks: list[str], max_chars: int) -> Iterator[Document]:
    """Yield blocks in the order of their hash until ``max_chars`` is reached; skip those too large on their own."""
    taken = 0
    for block in sorted(blocks, key=lambda block: hashlib.sha256(block.encode()).digest()):
        if len(block) <= max_chars // 50 and taken + len(block) <= max_chars:
            taken += len(block)
            yield Document(f"{name}#{taken}", block)
