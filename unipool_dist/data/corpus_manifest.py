"""``manifest.json``: the content of a prepared corpus, where it came from, and the hash of every file.

Guarantees: the same sources and options give the same bytes on every machine (no times, no paths); the manifest is the
last file written, so a directory without one is not a corpus; a manifest that was read names every file needed to open
the corpus, by plain names, with sizes that fit its token counts.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from unipool_dist.base.names import plain_name, regular_inside
from unipool_dist.base.reading import open_regular, read_json
from unipool_dist.base.writing import rename_durably, write_durably
from unipool_dist.data.tokenizer import TOKENIZER_FILES, TokenizerKind
from unipool_dist.errors import DataError

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
SPLITS = ("train", "validation")

Count = Annotated[int, Field(ge=1, lt=1 << 62)]
FileName = Annotated[str, AfterValidator(plain_name)]


class Record(BaseModel):
    """Base of the manifest's records: immutable, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Origin(Record):
    """The source of a domain's text: a package or a file, its version, and the licence of the *text*."""

    name: str
    version: str
    license: str
    sha256: str


class RowCounts(Record):
    """What was read of a source: rows; how many were dropped, by reason, and where the first ones are; files.

    ``dropped`` counts documents after the cut of a short source at paragraphs, so that it may be more than ``read``.
    """

    read: Count
    dropped: dict[str, Count]
    examples: dict[str, list[str]]
    files_passed_over: dict[str, Count]


class Domain(Record):
    """A domain. ``*_bytes`` count UTF-8 text without end-of-document marks, ``*_tokens`` count with them.

    ``unigram_entropy`` is the mean of ``-ln((c[t] + 1) / (N + V))`` over validation tokens t, in nats per token, with c
    the counts of the N training tokens and V the vocabulary size: the loss of a model that knows token frequencies
    only. ``train_bytes`` is ``None`` where only tokens were given.
    """

    origins: list[Origin]
    train_documents: Count
    validation_documents: Count
    train_bytes: Count | None
    validation_bytes: Count
    train_tokens: Count
    validation_tokens: Count
    unigram_entropy: Annotated[float, Field(allow_inf_nan=False)]
    rows: RowCounts | None = None  # earlier versions did not count


class TokenizerRecord(Record):
    """The tokenizer's kind, size, and the hash over its files; ``eod`` ends documents.

    ``special_tokens``: ids by name, of the end of a document, too; earlier releases did not write them.
    """

    kind: TokenizerKind
    vocab_size: Annotated[int, Field(ge=1, lt=1 << 31)]
    eod: Annotated[int, Field(ge=0, lt=1 << 31)]
    sha256: str
    special_tokens: dict[str, int] = {}


class FileRecord(Record):
    """Size and hash of one file of the corpus."""

    num_bytes: Annotated[int, Field(ge=0, lt=1 << 62)]
    sha256: str


class Manifest(Record):
    """The whole manifest; ``files`` maps names within the corpus directory to size and hash."""

    format_version: int
    options: dict[str, Any]
    tokenizer: TokenizerRecord
    domains: Annotated[dict[FileName, Domain], Field(min_length=1)]
    files: dict[FileName, FileRecord]

    def content_hash(self) -> str:
        """Return a hash over the names and hashes of all files: equal for equal tokens and tokenizer."""
        return combined_hash({name: record.sha256 for name, record in self.files.items()})


def combined_hash(hashes: dict[str, str]) -> str:
    """Return one sha256 for named hashes, independent of their order."""
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of the regular file at ``path``.

    Raises:
        OSError: it is missing or cannot be read.
        UnsafeFileError: it is a pipe, a device or a folder.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_file(path: Path) -> FileRecord:
    """Return the record of the file at ``path`` as it is now."""
    return FileRecord(num_bytes=path.stat().st_size, sha256=file_sha256(path))


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Write ``manifest`` into ``directory`` by one atomic rename; it is on disk when this returns."""
    temporary = directory / (MANIFEST_NAME + ".tmp")
    write_durably(temporary, json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")
    rename_durably(temporary, directory / MANIFEST_NAME)


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest in ``directory``.

    Raises:
        DataError: there is none, it is damaged, does not fit the files that it names, or has another format.
    """
    path = directory / MANIFEST_NAME
    remedy = f"run `unipool-dist data prepare {directory}`"
    try:
        values = read_json(regular_inside(directory, MANIFEST_NAME))
    except FileNotFoundError:
        raise DataError(f"no prepared corpus at {directory}: {path} does not exist; {remedy}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); {remedy} --force") from None
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(f"{path} has format_version={version}, this release reads {FORMAT_VERSION}; {remedy} --force")
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DataError(f"{path} is damaged: {field}: {first['msg']}; {remedy} --force") from None
    fault = _fault(manifest)
    if fault:
        raise DataError(f"{path} is damaged: {fault}; {remedy} --force")
    return manifest


def store_dtype(vocab_size: int) -> type[np.uint16] | type[np.int32]:
    """Return the type of one token on disk, chosen as Megatron-core does."""
    return np.uint16 if vocab_size < 65500 else np.int32


def _fault(manifest: Manifest) -> str | None:
    """Return what is inconsistent in the numbers of ``manifest``, which decide what is read and allocated."""
    tokenizer = manifest.tokenizer
    names = TOKENIZER_FILES[tokenizer.kind]
    stores = {f"{domain}.{split}.{end}" for domain in manifest.domains for split in SPLITS for end in ("bin", "idx")}
    missing = sorted({*names, *stores} - manifest.files.keys())
    if missing:
        return f"it does not name the file {missing[0]}"
    if combined_hash({name: manifest.files[name].sha256 for name in names}) != tokenizer.sha256:
        return "the tokenizer's hash is not that of its files"
    # A piece of a vocabulary takes a byte at least, wherever it is written down.
    if not tokenizer.eod < tokenizer.vocab_size <= sum(manifest.files[name].num_bytes for name in names):
        return f"vocab_size={tokenizer.vocab_size} and eod={tokenizer.eod} do not fit the tokenizer's files"
    itemsize = np.dtype(store_dtype(tokenizer.vocab_size)).itemsize
    for name, domain in manifest.domains.items():
        for split, tokens in zip(SPLITS, (domain.train_tokens, domain.validation_tokens), strict=True):
            if manifest.files[f"{name}.{split}.bin"].num_bytes != tokens * itemsize:
                return f"{name}.{split}.bin does not have the size of {tokens:,} tokens"
    return None
