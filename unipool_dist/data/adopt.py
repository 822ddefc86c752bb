"""Make a corpus of tokens that exist: Megatron's ``.bin`` and ``.idx``, and the tokenizer that made them.

The tokens are copied. Documents of validation have to be left out of training, every token is looked at anyway, and the
hashes of a corpus hold only for files that nobody else writes to, which a link would allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unipool_dist.base.progress_bars import Progress
from unipool_dist.data.corpus_manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    Domain,
    FileRecord,
    Manifest,
    Origin,
    RowCounts,
    combined_hash,
    file_sha256,
    record_file,
    store_dtype,
    write_manifest,
)
from unipool_dist.data.documents import MAX_VALIDATION_FRACTION, Split, check_enough, split_documents
from unipool_dist.data.foreign_store import AdoptedDocuments, ForeignStore, open_foreign_store, store_files
from unipool_dist.data.given_tokenizer import GivenTokenizer
from unipool_dist.data.joining import JoinPieces, unigram_entropy
from unipool_dist.data.keys import Keys
from unipool_dist.data.place import Place
from unipool_dist.data.sources.user_files import check_domain_name
from unipool_dist.data.tokenizer import Tokenizer, load_tokenizer
from unipool_dist.data.vocabulary import tokenizer_record
from unipool_dist.errors import DataError


@dataclass(frozen=True)
class AdoptOptions:
    """Stores by domain. A domain without a store of its own for validation has a share of its documents held out."""

    tokens: dict[str, Path]
    validation: dict[str, Path] = field(default_factory=dict)
    validation_fraction: float = 0.04

    def __post_init__(self) -> None:
        if not self.tokens:
            raise DataError("no tokens are named: --tokens NAME=PATH")
        for name, path in self.tokens.items():
            check_domain_name(name, f"--tokens {name:.300}={path}")
        if others := [name for name in self.validation if name not in self.tokens]:
            raise DataError(f"--validation {others[0]}=... has no --tokens {others[0]}=... to train on: give both")
        if not 0.0 < self.validation_fraction <= MAX_VALIDATION_FRACTION:
            raise DataError(
                f"validation_fraction={self.validation_fraction} is outside (0, {MAX_VALIDATION_FRACTION}]: use 0.04"
            )


def adopt(
    out: Path, options: AdoptOptions, given: GivenTokenizer, *, force: bool = False, progress: Progress | None = None
) -> Manifest:
    """Write the corpus ``out``; return its manifest.

    Raises:
        DataError: a store or the tokenizer cannot be used, they do not fit, ``out`` holds something, or another process
            writes it now.
        ForeignError: what would be replaced or deleted, at ``out`` or next to it, is not all of a corpus.
    """
    place = Place(out.absolute())
    if not force and (out / MANIFEST_NAME).exists():
        raise DataError(f"{out} holds a corpus: choose another place, or add --force")
    with place.locked() as partial:
        given.write(partial)
        record = tokenizer_record(given.kind, partial)
        tokenizer = load_tokenizer(given.kind, partial, record.sha256)
        files = {name: record_file(partial / name) for name in given.files}
        domains = {}
        for name in options.tokens:
            domains[name], written = _adopt_domain(name, options, tokenizer, partial, progress or Progress())
            files |= written
        hashes = {name: combined_hash({o.name: o.sha256 for o in domain.origins}) for name, domain in domains.items()}
        recorded = {
            "adopted": hashes,
            "tokenizer": record.sha256,
            "validation_fraction": options.validation_fraction,
        }
        manifest = Manifest(
            format_version=FORMAT_VERSION, options=recorded, tokenizer=record, domains=domains, files=files
        )
        write_manifest(manifest, partial)
        place.publish()
    return manifest


def _adopt_domain(
    name: str, options: AdoptOptions, tokenizer: Tokenizer, directory: Path, progress: Progress
) -> tuple[Domain, dict[str, FileRecord]]:
    """Write both stores of a domain; return its record, and those of the files by name."""
    paths = [options.tokens[name], *([options.validation[name]] if name in options.validation else [])]
    stores = [open_foreign_store(path, tokenizer.vocab_size, tokenizer.eod) for path in paths]
    split, num_equal = _split(name, [store.keys() for store in stores], options.validation_fraction)
    sides = {"train": (stores[0], split.train), "validation": (stores[-1], split.validation)}
    files: dict[str, FileRecord] = {}
    counts = {}
    for side, (store, rows) in sides.items():
        piece = AdoptedDocuments(store, rows, tokenizer.eod)
        num_bytes = int(piece.lengths().sum(dtype=np.int64)) * np.dtype(store_dtype(tokenizer.vocab_size)).itemsize
        with progress.bytes(f"adopt {name} {side}", num_bytes) as count:
            joined = JoinPieces([piece], directory / f"{name}.{side}", tokenizer.vocab_size).run(count)
        files |= {f"{name}.{side}.{end}": record for end, record in joined.files.items()}
        counts[side] = joined.counts
    domain = Domain(
        origins=[
            Origin(name=file.name, version="", license="the user's", sha256=file_sha256(file))
            for path in paths
            for file in store_files(path)
        ],
        train_documents=len(split.train),
        validation_documents=len(split.validation),
        train_bytes=None,  # to decode all tokens would take longer than all the rest
        validation_bytes=max(1, _text_bytes(stores[-1], split, tokenizer)),
        train_tokens=int(counts["train"].sum()),
        validation_tokens=int(counts["validation"].sum()),
        unigram_entropy=unigram_entropy(counts["train"], counts["validation"]),
        rows=RowCounts(
            read=sum(map(len, stores)),
            dropped={"duplicate": num_equal} if num_equal else {},
            examples={},
            files_passed_over={},
        ),
    )
    return domain, files


def _split(name: str, keys: Sequence[Keys], fraction: float) -> tuple[Split, int]:
    """Return the rows of both sides, of the only store or of one each; and how many of training equal a held-out one.

    Those are left out. Equal documents of training are kept as often as they come, as somebody wanted them.
    """
    if len(keys) == 1:
        check_enough(len(keys[0]), name)
        return split_documents(keys[0], name, fraction, None), 0
    train, held_out = keys
    check_enough(len(held_out), name, 1)
    first = Keys.joined([held_out, train]).first_of_equal()[len(held_out) :]
    rows = np.flatnonzero(first >= len(held_out))
    check_enough(len(rows), name, 1)
    return Split(train=rows, validation=np.arange(len(held_out))), len(train) - len(rows)


def _text_bytes(store: ForeignStore, split: Split, tokenizer: Tokenizer) -> int:
    """Return the bytes of UTF-8 of the documents that are held out."""
    texts = (tokenizer.decode(store.document(row).tolist()) for row in split.validation.tolist())
    return sum(len(text.encode("utf-8", "replace")) for text in texts)
