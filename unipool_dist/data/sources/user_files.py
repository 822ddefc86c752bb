"""The user's own text: files of every kind, folders, patterns and lists of them, and Hugging Face datasets."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from unipool_dist.base.reading import read_bytes
from unipool_dist.base.rows.frames import Fault
from unipool_dist.base.rows.program import Request
from unipool_dist.data.corpus_manifest import Origin, combined_hash, file_sha256
from unipool_dist.data.documents import Document
from unipool_dist.data.sources.apart import read_rows
from unipool_dist.data.sources.base import PassedOver, Problem, Row, Source, Unit
from unipool_dist.data.sources.listing import Found, FoundFile, check_found, find_path
from unipool_dist.errors import DataError

DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
MAX_DOMAIN_NAME = 200
"""Characters; file names begin with the domain's name."""
_HASHES_AT_ONCE = 8


def check_domain_name(name: str, option: str) -> None:
    """Refuse a name that cannot begin the names of files; ``option`` is what the user gave, for the error.

    Raises:
        DataError: it cannot.
    """
    if not DOMAIN_NAME.fullmatch(name) or len(name) > MAX_DOMAIN_NAME:
        raise DataError(f"{option}: the name must be of letters, digits, '-' and '_', at most {MAX_DOMAIN_NAME}")


def local_source(
    domain: str, location: str, text_field: str, *, validation: str | None = None, skip_unknown: bool = False
) -> Source:
    """Return the text at ``location``, and at ``validation`` that of its validation.

    A location is a path of a file or a folder, and nothing in it is special; or ``glob:PATTERN``, ``list:FILE``, which
    names one path per line, or ``hf:NAME[:CONFIG[:SPLIT]]``. Files are identified by content, not by path.

    Args:
        skip_unknown: pass over files in folders that cannot be read.

    Raises:
        DataError: the name is unfit for files, nothing is there, something is not a file or cannot be read, or a folder
            has files of several kinds.
    """
    check_domain_name(domain, f"--source {domain:.300}={location}")
    units, origin, passed = _read(f"{domain}={location}", location, text_field, skip_unknown)
    if validation is None:
        return Source(domain, [origin], units, passed_over=passed)
    held_out, its_origin, also_passed = _read(f"{domain}={validation}", validation, text_field, skip_unknown)
    return Source(domain, [origin, its_origin], units, held_out, passed.plus(also_passed))


def _read(where: str, location: str, text_field: str, skip_unknown: bool) -> tuple[list[Unit], Origin, PassedOver]:
    """Return the units at a location, what the manifest says of them, and what is passed over."""
    if location.startswith("hf:"):
        return [_hub_unit(where, location, text_field)], _hub_origin(location), PassedOver()
    try:
        found = _found(where, location)
        check_found(found, where, skip_unknown=skip_unknown, any_kinds=location.startswith("list:"))
        with ThreadPoolExecutor(_HASHES_AT_ONCE) as threads:
            hashes = list(threads.map(lambda file: file_sha256(file.path), found.files))
        sizes = [file.path.stat().st_size for file in found.files]
    except (OSError, ValueError) as error:
        raise DataError(f"--source {where} cannot be read: {error}") from None
    by_name = {file.name: digest for file, digest in zip(found.files, hashes, strict=True)}
    if len(by_name) < len(found.files):
        raise DataError(f"--source {where} names a file twice: name it once")
    digest = hashes[0] if len(hashes) == 1 else combined_hash(by_name)
    origin = Origin(name=Path(location).name, version="", license="the user's", sha256=digest)
    units = [FileUnit(file, where, text_field, size) for file, size in zip(found.files, sizes, strict=True)]
    return list(units), origin, PassedOver(tuple(found.system), tuple(found.unknown))


def _found(where: str, location: str) -> Found:
    """Return the files that a location names; none, if there is nothing."""
    found = Found()
    kind, _, rest = location.partition(":")
    if kind == "glob":
        matched = set(map(Path, glob.glob(rest, recursive=True)))
        # A pattern like a/** also finds what is in the folders that it finds.
        paths = sorted(path for path in matched if matched.isdisjoint(path.parents))
    elif kind == "list":
        paths = _listed_paths(Path(rest))
    else:
        found.nothing = not os.path.lexists(location)
        if not found.nothing:
            find_path(Path(location), found, where)
        return found
    found.nothing = not paths
    names = _names(paths)
    for path, name in zip(paths, names, strict=True):
        find_path(path, found, where, name)
    return found


def _listed_paths(path: Path) -> list[Path]:
    """Return the paths in a list: one per line, or as ``find -print0`` writes them; relative ones to the list."""
    names = os.fsdecode(read_bytes(path))
    separator = "\0" if "\0" in names else "\n"
    return [path.parent / name for name in names.split(separator) if name]


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the paths relative to the folder that all are in, so that moving it changes nothing."""
    if not paths:
        return []
    common = os.path.commonpath([os.path.abspath(path.parent) for path in paths])
    return [os.path.relpath(path, common) for path in paths]


@dataclass(frozen=True)
class FileUnit:
    """A file; ``where`` is the source as the user gave it, for errors."""

    file: FoundFile
    where: str
    text_field: str
    num_bytes: int

    @property
    def name(self) -> str:
        return self.file.name

    def rows(self) -> Iterator[Row]:
        """Yield its rows, called by the file and the line or the row, from 1."""
        request = Request(self.file.kind, str(self.file.path.absolute()), self.text_field, self.file.codec)
        return _rows(self.where, request, self.name)


@dataclass(frozen=True)
class HubUnit:
    """A split of a dataset of the Hugging Face Hub, streamed."""

    name: str
    request: Request
    where: str
    num_bytes: int = 0

    def rows(self) -> Iterator[Row]:
        return _rows(self.where, self.request, self.name)


def _hub_unit(where: str, location: str, text_field: str) -> HubUnit:
    name, _, rest = location.removeprefix("hf:").partition(":")
    config, _, split = rest.partition(":")
    if not name:
        raise DataError(f"--source {where} names no dataset: give hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT")
    request = Request("hub", name, text_field, config=config or None, split=split or "train")
    return HubUnit(location, request, where)


def _hub_origin(location: str) -> Origin:
    config = location.removeprefix("hf:").partition(":")[2]
    return Origin(name=location, version=config, license="see the dataset's card", sha256="")


def _rows(where: str, request: Request, name: str) -> Iterator[Row]:
    for number, row in read_rows(where, request):
        place = name if request.kind == "text" else f"{name}:{number}"
        yield Problem(row.reason, place, row.detail) if isinstance(row, Fault) else Document(place, row)
