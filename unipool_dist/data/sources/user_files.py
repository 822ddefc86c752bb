"""The user's own text: .jsonl, .json, .txt and .parquet files and Hugging Face datasets, read through ``datasets``."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unipool_dist.data.corpus_manifest import Origin, combined_hash, file_sha256
from unipool_dist.data.documents import Document
from unipool_dist.data.sources.apart import read_texts
from unipool_dist.data.sources.base import Source
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
    loader = LOADERS[files[0].suffix]
    if loader == "text":  # a text needs no parser that could fail, so all files are read at once
        names = [str(path) for path in files]
        batches: list[dict[str, Any]] = [{"data_files": names, "sample_by": "document"}]
        text_field = "text"
    else:
        batches = [{"data_files": [str(path)]} for path in files]
    return Source(domain, [origin], lambda: _read(where, location, loader, batches, text_field))


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
    batches = [{"name": config} if config else {}]
    return Source(domain, [origin], lambda: _read(f"{domain}={location}", location, name, batches, text_field))


def _read(
    where: str, location: str, loader: str, batches: Sequence[dict[str, Any]], text_field: str
) -> Iterator[Document]:
    for i, text in enumerate(read_texts(where, loader, batches, text_field)):
        yield Document(f"{location}#{i}", text)
