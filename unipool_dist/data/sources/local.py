"""The user's own text: .jsonl, .json, .txt and .parquet files and Hugging Face datasets, read through ``datasets``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unipool_dist.data.documents import Document
from unipool_dist.data.manifest import Origin, combined_hash, file_sha256
from unipool_dist.data.sources.base import Source
from unipool_dist.errors import DataError

LOADERS = {".jsonl": "json", ".json": "json", ".txt": "text", ".parquet": "parquet"}
DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def local_source(domain: str, location: str, text_field: str) -> Source:
    """The text at ``location``: a file, a folder of files of one kind, or the train split of ``hf:NAME[:CONFIG]``.

    One document per line (.jsonl), row (.parquet) or file (.txt). Files are known by their content, not by their path.

    Raises:
        DataError: the name is unfit for files, nothing is there, or files of several or unknown kinds are; while
            reading, a row without ``text_field``.
    """
    if not DOMAIN_NAME.fullmatch(domain):
        raise DataError(f"--source {domain}={location}: the name must be of letters, digits, '-' and '_'")
    if location.startswith("hf:"):
        return _hub_source(domain, location, text_field)
    files = _files(domain, Path(location))
    hashes = {path.name: file_sha256(path) for path in files}
    digest = hashes[files[0].name] if len(files) == 1 else combined_hash(hashes)
    origin = Origin(name=Path(location).name, version="", license="the user's", sha256=digest)
    arguments: dict[str, Any] = {"data_files": [str(path) for path in files]}
    loader = LOADERS[files[0].suffix]
    if loader == "text":
        arguments["sample_by"], text_field = "document", "text"
    return Source(domain, [origin], lambda: _read(domain, location, loader, arguments, text_field))


def _files(domain: str, path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in LOADERS)
    else:
        files = [path] if path.is_file() else []
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
    arguments = {"name": config} if config else {}
    return Source(domain, [origin], lambda: _read(domain, location, name, arguments, text_field))


def _read(domain: str, location: str, loader: str, arguments: dict[str, Any], text_field: str) -> Iterator[Document]:
    import datasets

    try:
        rows = datasets.load_dataset(loader, split="train", streaming=True, **arguments)
        for i, row in enumerate(rows):
            text = row.get(text_field)
            if not isinstance(text, str):
                raise DataError(
                    f"--source {domain}={location}: row {i} has no text under text_field={text_field!r}, only "
                    f"{', '.join(row)}: name the field with --text-field"
                )
            yield Document(f"{location}#{i}", text)
    except DataError:
        raise
    except Exception as error:  # datasets raises errors of every kind, from the network, Arrow and itself
        raise DataError(f"--source {domain}={location} cannot be read: {type(error).__name__}: {error}") from error
