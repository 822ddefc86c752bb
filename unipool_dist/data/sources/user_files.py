"""The user's own text: .jsonl, .json, .txt and .parquet files and Hugging Face datasets, read through ``datasets``."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unipool_dist.data.corpus_manifest import Origin, combined_hash, file_sha256
from unipool_dist.data.documents import Document
from unipool_dist.data.sources.apart import read_texts
from unipool_dist.data.sources.base import Row, Source
from unipool_dist.errors import DataError

LOADERS = {".jsonl": "json", ".json": "json", ".txt": "text", ".parquet": "parquet"}
DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
MAX_DOMAIN_NAME = 200
"""Characters; file names begin with the domain's name."""


def local_source(domain: str, location: str, text_field: str) -> Source:
    """Return the text at ``location``: a file, a folder of one kind, or the train split of ``hf:NAME[:CONFIG]``.

    One document per line (.jsonl), row (.parquet) or file (.txt). Files are identified by content, not by path.

    Raises:
        DataError: the name is unfit for files, nothing is there, something is not a file, or the files are of several
            or unknown kinds; while reading, a row without ``text_field``.
    """
    if not DOMAIN_NAME.fullmatch(domain) or len(domain) > MAX_DOMAIN_NAME:
        raise DataError(
            f"--source {domain:.300}={location}: the name must be of letters, digits, '-' and '_', at most "
            f"{MAX_DOMAIN_NAME}"
        )
    where = f"{domain}={location}"
    if location.startswith("hf:"):
        return _hub_source(domain, location, text_field)
    files = _files(domain, Path(location))
    try:
        hashes = {path.name: file_sha256(path) for path in files}
    except (OSError, ValueError) as error:
        raise DataError(f"--source {where} cannot be read: {error}") from None
    digest = hashes[files[0].name] if len(files) == 1 else combined_hash(hashes)
    origin = Origin(name=Path(location).name, version="", license="the user's", sha256=digest)
    return Source(
        domain, [origin], [FileUnit(path.name, path, where, text_field, path.stat().st_size) for path in files]
    )


def _files(domain: str, path: Path) -> list[Path]:
    """Return the files of a source. Links are followed: they are the user's own."""
    try:
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix in LOADERS)
        else:
            files = [path] if path.exists() else []
        for file in files:
            if not stat.S_ISREG(file.stat().st_mode):
                raise DataError(f"--source {domain}={path}: {file} is not a regular file: move it elsewhere")
    except OSError as error:
        raise DataError(f"--source {domain}={path} cannot be read: {error}") from None
    kinds = sorted({LOADERS.get(file.suffix, f"*{file.suffix}") for file in files})
    if not files or len(kinds) > 1 or kinds[0] not in LOADERS.values():
        found = f"holds files of kinds {', '.join(kinds)}" if files else "has no text files"
        raise DataError(
            f"--source {domain}={path} {found}: give a file, or a folder of files of one kind ({', '.join(LOADERS)}), "
            f"or hf:NAME for a Hugging Face dataset"
        )
    return files


def _hub_source(domain: str, location: str, text_field: str) -> Source:
    name, _, config = location.removeprefix("hf:").partition(":")
    origin = Origin(name=location, version=config, license="see the dataset's card", sha256="")
    return Source(domain, [origin], [HubUnit(location, name, config, f"{domain}={location}", text_field)])


@dataclass(frozen=True)
class FileUnit:
    """A file; ``where`` is what the user gave, for errors."""

    name: str
    path: Path
    where: str
    text_field: str
    num_bytes: int

    def rows(self) -> Iterator[Row]:
        loader, field = LOADERS[self.path.suffix], self.text_field
        arguments: dict[str, Any] = {"data_files": [str(self.path)]}
        if loader == "text":
            arguments["sample_by"], field = "document", "text"
        for i, text in enumerate(read_texts(self.where, loader, [arguments], field)):
            yield Document(f"{self.name}:{i + 1}", text)


@dataclass(frozen=True)
class HubUnit:
    """The train split of a dataset of the Hugging Face Hub, streamed."""

    name: str
    dataset: str
    config: str
    where: str
    text_field: str
    num_bytes: int = 0

    def rows(self) -> Iterator[Row]:
        arguments = {"name": self.config} if self.config else {}
        for i, text in enumerate(read_texts(self.where, self.dataset, [arguments], self.text_field)):
            yield Document(f"{self.name}:{i + 1}", text)
