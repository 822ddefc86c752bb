"""From a source to a domain's documents on disk, chosen and split, as a memory-mapped Hugging Face dataset.

Text passes through the disk so that a source may be larger than memory; 100 bytes per document stay in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unipool_dist.base.progress_bars import Progress
from unipool_dist.data.corpus_manifest import SPLITS, Origin, RowCounts
from unipool_dist.data.documents import DocumentKey, Split, key_of, split_documents, split_given, unique_documents
from unipool_dist.data.sources.base import Source, Unit
from unipool_dist.data.sources.tally import Reading, Tally

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
    rows: RowCounts

    def read(self, rows: list[int]) -> Iterator[str]:
        """Yield the texts of ``rows``, in that order."""
        for start in range(0, len(rows), READ_BATCH):
            yield from self.texts[rows[start : start + READ_BATCH]]["text"]

    def num_bytes(self, rows: list[int]) -> int:
        """Return the bytes of UTF-8 text in ``rows``."""
        return sum(self.keys[row].num_bytes for row in rows)


class Spooler:
    """Writes the documents of one source after the other into ``directory``, equal ones once.

    Validation of its own comes first, of all sources (:meth:`hold_out`), so that none of it is trained on.
    """

    def __init__(self, directory: Path, reading: Reading, progress: Progress) -> None:
        self._directory, self._reading, self._progress = directory, reading, progress
        self._seen: set[str] = set()
        self._held_out: dict[str, tuple[datasets.Dataset, Tally]] = {}

    def hold_out(self, source: Source) -> None:
        """Write the validation that ``source`` has of its own, if it has one.

        Raises:
            DataError: it cannot be read, or is empty.
        """
        if source.validation is not None:
            tally = Tally()
            self._held_out[source.domain] = self._documents(source, source.validation, tally, held_out=True), tally

    def spool(self, source: Source, fraction: float, max_bytes: int | None) -> Spool:
        """Write the other documents of ``source``, and split them.

        Raises:
            DataError: the source cannot be read, or has too few documents to split.
        """
        import datasets

        tally = Tally()
        texts = self._documents(source, source.units, tally, held_out=False)
        if source.validation is None:
            keys = _keys(texts)
            split = split_documents(keys, source.domain, fraction, max_bytes)
        else:
            held_out, its_tally = self._held_out[source.domain]
            tally.add(its_tally)
            texts = datasets.concatenate_datasets([held_out, texts])
            keys = _keys(texts)
            split = split_given(keys, len(held_out), source.domain, max_bytes)
        capped = len(keys) - len(split.train) - len(split.validation)
        return Spool(source.domain, source.origins, texts, keys, split, _counts(tally, source, capped))

    def _documents(self, source: Source, units: Sequence[Unit], tally: Tally, *, held_out: bool) -> datasets.Dataset:
        import datasets

        datasets.disable_progress_bars()  # ours counts the same thing

        def rows() -> Iterator[dict[str, object]]:
            documents = unique_documents(
                tally.documents(units, source.domain, self._reading.max_bad_rows),
                source.domain,
                self._seen,
                dedup=self._reading.dedup,
                held_out=held_out,
                dropped=tally.drop,
            )
            for document in self._progress.over(documents, f"read {source.domain}", unit=" documents"):
                key = key_of(document.text)
                yield {"text": document.text, "num_bytes": key.num_bytes, "sha256": key.sha256}

        name = f"{source.domain}.{SPLITS[1]}" if held_out else source.domain
        return _write(rows(), self._directory / f"{name}.arrow")


def _keys(texts: datasets.Dataset) -> list[DocumentKey]:
    return [DocumentKey(int(n), str(h)) for n, h in zip(texts["num_bytes"], texts["sha256"], strict=True)]


def _counts(tally: Tally, source: Source, capped: int) -> RowCounts:
    dropped = dict(tally.dropped)
    if capped:
        dropped["beyond max_bytes_per_domain"] = capped
    passed = {"of the operating system": source.passed_over.system, "unknown": source.passed_over.unknown}
    files = {kind: len(names) for kind, names in passed.items() if names}
    return RowCounts(read=tally.read, dropped=dropped, examples=tally.examples, files_passed_over=files)


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
