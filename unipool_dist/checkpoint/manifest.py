"""The manifest of a checkpoint: size and hash of each of its files; and the check of the files against it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from unipool_dist.base.names import OutsideError, plain_name, regular_inside
from unipool_dist.base.reading import open_regular, read_json
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.errors import CheckpointError

MANIFEST_FILE = "manifest.json"
STATE_FILE, CONFIG_FILE, INDEX_FILE = "state.json", RunDirectory.config.name, ".metadata"
SMALL_FILES = (STATE_FILE, CONFIG_FILE, INDEX_FILE)
"""Files read of every checkpoint before its tensors; verified even if only sizes are asked for."""
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class FileRecord:
    """The expected size and hash of a file."""

    num_bytes: int
    xxh3_128: str


@dataclass(frozen=True)
class Manifest:
    """All files of a checkpoint except the manifest itself, which carries a hash of its own content."""

    step: int
    files: dict[str, FileRecord]

    @property
    def num_bytes(self) -> int:
        return sum(record.num_bytes for record in self.files.values())

    def dump(self) -> str:
        """Return the text of ``manifest.json``."""
        content = {"step": self.step, "files": {name: asdict(self.files[name]) for name in sorted(self.files)}}
        return json.dumps({**content, "xxh3_128": _content_hash(content)}, indent=1) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the checkpoint in ``folder``.

    Raises:
        CheckpointError: it is missing, unreadable, does not have the hash it carries, lacks one of ``SMALL_FILES``, or
            names a file that is not in the folder itself.
    """
    path = folder / MANIFEST_FILE
    try:
        values: Any = read_json(regular_inside(folder, MANIFEST_FILE))
        stated = values.pop("xxh3_128")
        files = {plain_name(name): FileRecord(**record) for name, record in values["files"].items()}
        manifest = Manifest(_count(values["step"]), files)
        for record in files.values():
            _count(record.num_bytes)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}") from None
    if _content_hash(values) != stated:
        raise CheckpointError(f"{path} is damaged: its content does not have the hash that it states")
    missing = [name for name in SMALL_FILES if name not in files]
    if missing:
        raise CheckpointError(f"{path} is damaged: it does not name {', '.join(missing)}")
    return manifest


def size_faults(folder: Path, manifest: Manifest) -> list[str]:
    """Return what is wrong with the files of ``folder`` judging by their sizes; reads none of them."""
    faults = []
    for name, record in manifest.files.items():
        path = folder / name
        try:
            num_bytes = regular_inside(folder, name).stat().st_size
        except (OSError, OutsideError) as error:
            faults.append(_unreadable(path, error))
            continue
        if num_bytes != record.num_bytes:
            faults.append(f"{path} has {num_bytes} bytes instead of {record.num_bytes}")
    return faults


def content_faults(
    folder: Path, files: Mapping[str, FileRecord], progress: Callable[[int], None] | None = None
) -> list[str]:
    """Return what is wrong with these files; reads every byte of those of the right size.

    ``progress`` is called with numbers of bytes read. A link, folder, pipe or device in the place of a file is a fault,
    and not opened.
    """
    faults = []
    for name, record in files.items():
        path = folder / name
        try:
            num_bytes = regular_inside(folder, name).stat().st_size
            found = hash_file(path, progress) if num_bytes == record.num_bytes else FileRecord(num_bytes, "")
        except (OSError, ValueError) as error:
            faults.append(_unreadable(path, error))
            continue
        if found.num_bytes != record.num_bytes:
            faults.append(f"{path} has {found.num_bytes} bytes instead of {record.num_bytes}")
        elif found != record:
            faults.append(f"{path} is damaged: its content does not have the hash in the manifest")
    return faults


def hash_file(path: Path, progress: Callable[[int], None] | None = None) -> FileRecord:
    """Return size and hash of a regular file.

    Raises:
        OSError: it is missing or cannot be read.
        UnsafeFileError: it is not a regular file.
    """
    digest, num_bytes = xxhash.xxh3_128(), 0
    buffer = bytearray(_CHUNK_BYTES)
    with open_regular(path) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            num_bytes += count
            if progress is not None:
                progress(count)
    return FileRecord(num_bytes, digest.hexdigest())


def deal(files: Mapping[str, FileRecord], num_ranks: int) -> list[dict[str, FileRecord]]:
    """Deal ``files`` out to ranks so that each has about as many bytes to read.

    Each rank gets neighbours in the order of the ranks that wrote them; if as many ranks read, each gets its own.
    """
    shares: list[dict[str, FileRecord]] = [{} for _ in range(num_ranks)]
    total, before = sum(record.num_bytes for record in files.values()), 0
    for name in sorted(files, key=_by_writer):
        num_bytes = files[name].num_bytes
        middle = (before + num_bytes / 2) / max(total, 1)
        shares[min(int(middle * num_ranks), num_ranks - 1)][name] = files[name]
        before += num_bytes
    return shares


def join_faults(faults: Iterable[str]) -> str:
    """Join several faults in one line."""
    return "; ".join(faults)


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path} is missing"
    return str(error) if isinstance(error, OutsideError) else f"{path}: {error}"


def _count(value: object) -> int:
    """Return ``value`` if it can be a step or a size."""
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"{value!r:.50} is not a count")
    return value


def _content_hash(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())


def _by_writer(name: str) -> tuple[list[int], str]:
    """Return a sort key by which ``__10_0.distcp``, of rank 10, comes after ``__9_0.distcp``."""
    return [int(digits) for digits in re.findall(r"\d+", name)], name
