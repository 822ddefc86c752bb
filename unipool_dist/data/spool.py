"""From a source to a domain's documents on disk, chosen and split, as a memory-mapped Hugging Face dataset.

Text passes through the disk so that a source may be larger than memory; 100 bytes per document stay in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unipool_dist.base.progress_bars import Progress
from unipool_dist.data.corpus_manifest import Origin
from unipool_dist.data.documents import DocumentKey, Split, key_of, split_documents, unique_documents
from unipool_dist.data.sources.base import Source

if TYPE_CHECKING:
    import datasets

READ_BATCH = 64  # documents


@dataclass(frozen=True)
class Spool:
    """A domain's documents. ``texts`` has a column ``text``; ``split`` and ``keys`` refer to its rows."""

    domain: str
    origins: list[Origin]
    texts: datasets.Dataset
    keys: list[DocumentKey]
    split: Split

    def read(self, rows: list[int]) -> Iterator[str]:
        """Yield the texts of ``rows``, in that order."""
        for start in range(0, len(rows), READ_BATCH):
            yield from self.texts[rows[start : start + READ_BATCH]]["text"]

    def num_bytes(self, rows: list[int]) -> int:
        """Return the bytes of UTF-8 text in ``rows``."""
        return sum(self.keys[row].num_bytes for row in rows)


def spool_source(
    source: Source, *, seen: set[str], directory: Path, fraction: float, max_bytes: int | None, progress: Progress
) -> Spool:
    """Read ``source`` into ``directory``, without documents whose hash is in ``seen``, and split the rest.

    Raises:
        DataError: the source cannot be read, or has too few documents to split.
    """
    import datasets

    datasets.disable_progress_bars()  # ours counts the same thing

    def rows() -> Iterator[dict[str, object]]:
        documents = unique_documents(source.documents(), source.domain, seen)
        for document in progress.over(documents, f"read {source.domain}", unit=" documents"):
            key = key_of(document.text)
            yield {"text": document.text, "num_bytes": key.num_bytes, "sha256": key.sha256}

    texts = _write(rows(), directory / f"{source.domain}.arrow")
    keys = [DocumentKey(int(n), str(h)) for n, h in zip(texts["num_bytes"], texts["sha256"], strict=True)]
    split = split_documents(keys, source.domain, fraction, max_bytes)
    return Spool(source.domain, source.origins, texts, keys, split)


def _write(rows: Iterator[dict[str, object]], path: Path) -> datasets.Dataset:
    """Write a dataset as ``Dataset.from_generator`` does, without its cache keys.

    These hash the generator and hide the error it raises.
    """
    import datasets
    from datasets.arrow_writer import ArrowWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    features = datasets.Features(
        text=datasets.Value("large_string"), num_bytes=datasets.Value("int64"), sha256=datasets.Value("string")
    )
    with ArrowWriter(features=features, path=str(path), writer_batch_size=READ_BATCH) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()
    return datasets.Dataset.from_file(str(path))
