"""A prepared corpus on disk, opened for reading."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from unipool_dist.base.names import OutsideError, regular_inside
from unipool_dist.data.corpus_manifest import Domain, FileRecord, Manifest, combined_hash, file_sha256, read_manifest
from unipool_dist.data.tokenizer import TOKENIZER_FILES, Tokenizer, load_tokenizer
from unipool_dist.errors import DataError

Verify = Literal["size", "hash"]


@dataclass(frozen=True)
class Corpus:
    """A directory written by ``unipool-dist data prepare`` whose files agree with its manifest.

    Collectives: none. Every rank opens the corpus for itself.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path, verify: Verify = "size") -> Corpus:
        """Open the corpus at ``path``; check the size of every file, with ``verify="hash"`` also its content.

        Raises:
            DataError: there is no corpus, or a file is missing, truncated or corrupt; the message names it.
        """
        if verify not in ("size", "hash"):
            raise DataError(f"verify={verify!r} is unknown: use 'size' or 'hash'")
        directory = Path(path)
        manifest = read_manifest(directory)
        for name, record in manifest.files.items():
            fault = _fault(directory, name, record, verify)
            if fault:
                raise DataError(
                    f"corpus file {directory / name} {fault}; run `unipool-dist data prepare {directory} --force` with "
                    f"the options it was prepared with (`unipool-dist data show {directory}`)"
                )
        return cls(directory, manifest)

    @property
    def domains(self) -> dict[str, Domain]:
        """The domains by name, in the order in which they were prepared."""
        return self.manifest.domains

    @property
    def vocab_size(self) -> int:
        """Token ids are in ``[0, vocab_size)``."""
        return self.manifest.tokenizer.vocab_size

    @property
    def document_end(self) -> int:
        """The token that ends every document."""
        return self.manifest.tokenizer.eod

    @property
    def tokenizer_hash(self) -> str:
        """Hash over the tokenizer's files."""
        return self.manifest.tokenizer.sha256

    @cached_property
    def content_hash(self) -> str:
        """Hash over all token files and the tokenizer: by it a checkpoint identifies its data."""
        return self.manifest.content_hash()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the corpus was packed with, loaded at first use.

        Raises:
            DataError: its files do not match the manifest.
        """
        record = self.manifest.tokenizer
        remedy = "prepare the corpus again, or have it copied again"
        try:
            found = combined_hash(
                {name: file_sha256(regular_inside(self.path, name)) for name in TOKENIZER_FILES[record.kind]}
            )
        except (OSError, ValueError) as error:
            raise DataError(f"the tokenizer of corpus {self.path} cannot be read ({error}): {remedy}") from None
        if found != record.sha256:
            raise DataError(f"the tokenizer of corpus {self.path} is corrupt (its sha256 differs): {remedy}")
        tokenizer = load_tokenizer(record.kind, self.path, record.sha256)
        if (tokenizer.vocab_size, tokenizer.eod) != (record.vocab_size, record.eod):
            raise DataError(
                f"the tokenizer of corpus {self.path} has vocab_size={tokenizer.vocab_size} and eod={tokenizer.eod}, "
                f"its manifest says {record.vocab_size} and {record.eod}: {remedy}"
            )
        return tokenizer

    def domain(self, name: str) -> Domain:
        """Return the domain called ``name``.

        Raises:
            DataError: there is none; the message lists those that exist.
        """
        if name not in self.domains:
            raise DataError(f"domain {name!r} is not in corpus {self.path}: choose among {', '.join(self.domains)}")
        return self.domains[name]

    def prefix(self, domain: str, split: Literal["train", "validation"]) -> Path:
        """Return the path of a token store without ``.bin`` or ``.idx``, as Megatron-core expects it."""
        self.domain(domain)
        return self.path / f"{domain}.{split}"


def _fault(directory: Path, name: str, record: FileRecord, verify: Verify) -> str | None:
    try:
        path = regular_inside(directory, name)
        num_bytes = path.stat().st_size
        if num_bytes != record.num_bytes:
            return f"has {num_bytes} bytes instead of {record.num_bytes}"
        if verify == "hash" and file_sha256(path) != record.sha256:
            return "is corrupt (its sha256 differs from the manifest's)"
    except FileNotFoundError:
        return "is missing"
    except OutsideError:
        return "is a link, a folder or a device, and a corpus has regular files of its own"
    except (OSError, ValueError) as error:
        return f"cannot be read ({error})"
    return None
