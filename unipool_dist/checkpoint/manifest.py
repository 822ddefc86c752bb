"""The manifest of a checkpoint: size and hash of each of its files; and the check of the files against it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from unipool_dist.errors import CheckpointError

MANIFEST_FILE = "manifest.json"
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class FileRecord:
    """What a file must be."""

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
        """The text of ``manifest.json``."""
        content = {"step": self.step, "files": {name: asdict(self.files[name]) for name in sorted(self.files)}}
        return json.dumps({**content, "xxh3_128": _content_hash(content)}, indent=1) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the checkpoint in ``folder``.

    Raises:
        CheckpointError: it is missing, unreadable, or does not have the hash it carries.
    """
    path = folder / MANIFEST_FILE
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        stated = values.pop("xxh3_128")
        manifest = Manifest(values["step"], {name: FileRecord(**record) for name, record in values["files"].items()})
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}") from None
    if _content_hash(values) != stated:
        raise CheckpointError(f"{path} is damaged: its content does not have the hash that it states")
    return manifest


def size_faults(folder: Path, manifest: Manifest) -> list[str]:
    """What is wrong with the files of ``folder`` as far as their sizes tell; reads none of them."""
    faults = []
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{path} is missing")
        elif path.stat().st_size != record.num_bytes:
            faults.append(f"{path} has {path.stat().st_size} bytes instead of {record.num_bytes}")
    return faults


def content_faults(
    folder: Path, files: Mapping[str, FileRecord], progress: Callable[[int], None] | None = None
) -> list[str]:
    """What is wrong with these files; reads every byte. ``progress`` is told of bytes read."""
    faults = []
    for name, record in files.items():
        path = folder / name
        try:
            found = hash_file(path, progress)
        except OSError as error:
            faults.append(f"{path} is missing" if isinstance(error, FileNotFoundError) else f"{path}: {error}")
            continue
        if found.num_bytes != record.num_bytes:
            faults.append(f"{path} has {found.num_bytes} bytes instead of {record.num_bytes}")
        elif found != record:
            faults.append(f"{path} is damaged: its content does not have the hash in the manifest")
    return faults


def hash_file(path: Path, progress: Callable[[int], None] | None = None) -> FileRecord:
    """Size and hash of a file."""
    digest, num_bytes = xxhash.xxh3_128(), 0
    buffer = bytearray(_CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            num_bytes += count
            if progress is not None:
                progress(count)
    return FileRecord(num_bytes, digest.hexdigest())


def deal(files: Mapping[str, FileRecord], num_ranks: int) -> list[dict[str, FileRecord]]:
    """``files`` dealt out to ranks so that each has about as many bytes to read.

    A rank's are neighbours in the order of the ranks that wrote them; where as many ranks read, each gets its own.
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
    """Several faults in one line."""
    return "; ".join(faults)


def _content_hash(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())


def _by_writer(name: str) -> tuple[list[int], str]:
    """``__10_0.distcp``, of rank 10, comes after ``__9_0.distcp``."""
    return [int(digits) for digits in re.findall(r"\d+", name)], name
