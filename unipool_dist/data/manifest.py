"""``manifest.json``: what a prepared corpus holds, where it came from, and the hash of every file.

Guarantees: the same sources and options give the same bytes on every machine (no times, no paths); the manifest is the
last file written, so a directory without one is no corpus.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from unipool_dist.data.tokenizer import TokenizerKind
from unipool_dist.errors import DataError

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
SPLITS = ("train", "validation")


class Record(BaseModel):
    """Base of the manifest's records: immutable, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Origin(Record):
    """Where the text of a domain comes from: a package or a file, its version, and the licence of the *text*."""

    name: str
    version: str
    license: str
    sha256: str


class Domain(Record):
    """One domain. ``*_bytes`` count UTF-8 text without end-of-document marks, ``*_tokens`` count with them.

    ``unigram_entropy`` is the mean of ``-ln((c[t] + 1) / (N + V))`` over validation tokens t, in nats per token, c the
    counts of the N training tokens and V the vocabulary size: the loss of a model that knows how often tokens occur
    and nothing else.
    """

    origins: list[Origin]
    train_documents: int
    validation_documents: int
    train_bytes: int
    validation_bytes: int
    train_tokens: int
    validation_tokens: int
    unigram_entropy: float


class TokenizerRecord(Record):
    """The tokenizer's kind, size, and the hash over its files."""

    kind: TokenizerKind
    vocab_size: int
    eod: int
    sha256: str


class FileRecord(Record):
    """Size and hash of one file of the corpus."""

    num_bytes: int
    sha256: str


class Manifest(Record):
    """The whole manifest; ``files`` maps names within the corpus directory to what they must be."""

    format_version: int
    options: dict[str, Any]
    tokenizer: TokenizerRecord
    domains: dict[str, Domain]
    files: dict[str, FileRecord]

    def content_hash(self) -> str:
        """Hash over the names and hashes of all files: equal for corpora with equal tokens and tokenizer."""
        return combined_hash({name: record.sha256 for name, record in self.files.items()})


def combined_hash(hashes: dict[str, str]) -> str:
    """One sha256 for named hashes, whatever their order."""
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex sha256 of the file at ``path``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_file(path: Path) -> FileRecord:
    """The record of the file at ``path`` as it is now."""
    return FileRecord(num_bytes=path.stat().st_size, sha256=file_sha256(path))


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Write ``manifest`` into ``directory`` by one atomic rename, on disk before this returns."""
    temporary = directory / (MANIFEST_NAME + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(manifest.model_dump(mode="json"), file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / MANIFEST_NAME)


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest in ``directory``.

    Raises:
        DataError: there is none, it is damaged, or it was written in another format.
    """
    path = directory / MANIFEST_NAME
    remedy = f"run `unipool-dist data prepare {directory}`"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"no prepared corpus at {directory}: {path} does not exist; {remedy}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); {remedy} --force") from None
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(f"{path} has format_version={version}, this release reads {FORMAT_VERSION}; {remedy} --force")
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DataError(f"{path} is damaged: {field}: {first['msg']}; {remedy} --force") from None
