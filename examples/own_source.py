"""A source of text of one's own: `unipool-dist data prepare data/sums --corpus own_source:sums`, from this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unipool_dist.data.corpus_manifest import Origin
from unipool_dist.data.documents import Document
from unipool_dist.data.sources import Source


def sums(cache: Path, run: object) -> Iterator[Source]:
    """Yield one domain: sums, which are made here. What is downloaded would go into ``cache``."""
    origin = Origin(name="own_source.py", version="1", license="Apache-2.0", sha256="")
    yield Source("sums", [origin], _documents)


def _documents() -> Iterator[Document]:
    """Yield the same documents in the same order whenever it is called."""
    for a in range(40):
        text = " ".join(f"{a} plus {b} is {a + b}, and {b} less {a} is {b - a}." for b in range(60))
        yield Document(f"sums of {a}", text)
