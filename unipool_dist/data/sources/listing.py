"""Which files a location names: a file, a folder with all that is below it, a pattern, a list.

A file is read by its suffix, in any case, after which ``.gz`` or ``.zst`` may follow. What a folder holds besides is
never passed over in silence: what systems leave there is counted, anything else is an error that lists it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from unipool_dist.base.printable import listed
from unipool_dist.base.rows.program import Kind
from unipool_dist.data.sources.saved import CACHE, RECORDS, is_saved, saved_entries
from unipool_dist.errors import DataError

KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".json": "json",
    ".txt": "text",
    ".md": "text",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
CODECS: dict[str, Literal["gzip", "zstd"]] = {".gz": "gzip", ".zst": "zstd"}
_SYSTEM = re.compile(
    r"\._.*|\.DS_Store|Thumbs\.db|ehthumbs\.db|desktop\.ini|\.nfs[0-9a-f]+|\.directory|\.localized", re.IGNORECASE
)
"""Files that operating systems and file systems leave in folders."""
_SYSTEM_FOLDERS = re.compile(
    r"__MACOSX|\.Spotlight-V100|\.Trashes|\.Trash-\d+|\.fseventsd|\.TemporaryItems|\$RECYCLE\.BIN"
    r"|System Volume Information|lost\+found|\.snapshot",
    re.IGNORECASE,
)
_MAX_DEPTH = 100
"""Folders within folders."""


@dataclass(frozen=True)
class FoundFile:
    """A file to be read. ``name`` is unique in its source: the path within the folder that was given."""

    path: Path
    name: str
    kind: Kind
    codec: Literal["gzip", "zstd"] | None


@dataclass
class Found:
    """The files at a location, in the order in which they are read, and the names of what is passed over."""

    files: list[FoundFile] = field(default_factory=list)
    system: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    nothing: bool = False
    """The path does not exist, or the pattern matches nothing."""

    def kinds(self) -> list[str]:
        """Return the kinds of the files, ``json`` for those of objects per line, too."""
        return sorted({"json" if file.kind == "jsonl" else file.kind for file in self.files})


def file_kind(name: str) -> tuple[Kind, Literal["gzip", "zstd"] | None] | None:
    """Return how a file of this name is read, or ``None`` if its suffix is not known."""
    stem, suffix = os.path.splitext(name.lower())
    codec = CODECS.get(suffix)
    if codec is not None:
        suffix = os.path.splitext(stem)[1]
    return (KINDS[suffix], codec) if suffix in KINDS else None


def find_path(path: Path, found: Found, where: str, name: str | None = None) -> None:
    """Add what is at ``path``, a file or a folder, to ``found``. Links are followed: they are the user's own.

    Args:
        where: the source as the user gave it, for errors.
        name: what to call it; by default a file has its own name, and those in a folder their path within it.

    Raises:
        DataError: there is nothing, or it is neither a regular file nor a folder.
        OSError, ValueError: it cannot be read.
    """
    if path.is_dir():
        _find_below(path, "" if name is None else f"{name}/", found, where, ())
        return
    _check_regular(path, where)
    name = path.name if name is None else name
    known = file_kind(path.name)
    if known is None:
        found.unknown.append(name)
    else:
        found.files.append(FoundFile(path, name, *known))


def _find_below(folder: Path, prefix: str, found: Found, where: str, above: tuple[tuple[int, int], ...]) -> None:
    """Add the files below ``folder`` in the order of their names; ``above``: the folders that it is in."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above or len(above) > _MAX_DEPTH:
        raise DataError(f"--source {where}: {folder} leads back to a folder that it is in: remove the link")
    if is_saved(folder):
        _find_saved(folder, prefix, found, where, (*above, identity))
        return
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    if not entries and file_kind(folder.name):
        raise DataError(f"--source {where}: {folder} is an empty folder, and not a regular file: remove it")
    for entry in entries:
        if _SYSTEM.fullmatch(entry.name) or (entry.is_dir() and _SYSTEM_FOLDERS.fullmatch(entry.name)):
            found.system.append(prefix + entry.name)
        elif not entry.is_dir():
            _find_file(Path(entry.path), prefix + entry.name, found, where)
        elif entry.name.startswith("."):
            found.unknown.append(f"{prefix}{entry.name}/")
        else:
            _find_below(Path(entry.path), f"{prefix}{entry.name}/", found, where, (*above, identity))


def _find_saved(folder: Path, prefix: str, found: Found, where: str, above: tuple[tuple[int, int], ...]) -> None:
    """Add the files of a saved dataset, and what else is in its folder."""
    names = saved_entries(folder, where)
    for name in names:
        path = folder / name
        if path.is_dir():
            _find_below(path, f"{prefix}{name}/", found, where, above)
        else:
            _check_regular(path, where)
            found.files.append(FoundFile(path, prefix + name, "arrow", None))
    for other in sorted(set(os.listdir(folder)) - RECORDS - set(names)):
        (found.system if _SYSTEM.fullmatch(other) or CACHE.fullmatch(other) else found.unknown).append(prefix + other)


def _check_regular(path: Path, where: str) -> None:
    if not stat.S_ISREG(path.stat().st_mode):
        raise DataError(f"--source {where}: {path} is not a regular file: move it elsewhere")


def _find_file(path: Path, name: str, found: Found, where: str) -> None:
    if file_kind(path.name):
        find_path(path, found, where, name)
    else:
        found.unknown.append(name)


def check_found(found: Found, where: str, *, skip_unknown: bool, any_kinds: bool = False) -> None:
    """Refuse a location without text, with files that cannot be read, or with files of several kinds.

    Args:
        skip_unknown: pass over files that cannot be read, unless there are no others.
        any_kinds: the files were named one by one.

    Raises:
        DataError: it is one of these.
    """
    known = f"{', '.join(KINDS)}, each also as {' or '.join(CODECS)}"
    if not found.files and not found.unknown:
        what = "nothing is there" if found.nothing else "no file is there"
        raise DataError(
            f"--source {where} has no text files, as {what}: give a file or a folder ({known}), glob:PATTERN, "
            f"list:FILE, or hf:NAME for a Hugging Face dataset"
        )
    if found.unknown and not (skip_unknown and found.files):
        endings = {os.path.splitext(name)[1] for name in found.unknown}
        kinds = sorted(f"*{ending}" if ending else "without a suffix" for ending in endings)
        way = ": move them elsewhere, or add --skip-unknown to do without them" if found.files else ""
        if endings & {".bin", ".idx"}:
            way += "; tokens of Megatron are for `unipool-dist data adopt`"
        raise DataError(
            f"--source {where} has files of kinds {', '.join(kinds[:8])}, which cannot be read ({known} can){way}:\n"
            f"{listed(found.unknown)}"
        )
    kinds = found.kinds()
    if len(kinds) > 1 and not any_kinds:
        raise DataError(
            f"--source {where} has files of kinds {', '.join(kinds)}: give those that are meant, for example as "
            f"NAME=glob:FOLDER/**/*{_an_example(found)}\n{listed(_one_of_each(found))}"
        )


def _an_example(found: Found) -> str:
    return os.path.splitext(found.files[0].name)[1].lower()


def _one_of_each(found: Found) -> Iterator[str]:
    first: dict[str, str] = {}
    for file in found.files:
        first.setdefault(cast(str, file.kind), file.name)
    return iter(first.values())
