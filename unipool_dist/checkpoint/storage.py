"""Files of torch.distributed.checkpoint: hashed while they are written, read without executing anything in them."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from unipool_dist.checkpoint.manifest import FileRecord
from unipool_dist.errors import CheckpointError


class HashingWriter(FileSystemWriter):
    """Writes one file per rank, flushed to disk, and knows the size and hash of every file it has written."""

    def __init__(self, path: Path, num_files: int = 1) -> None:
        super().__init__(path, thread_count=num_files)
        self.fs = self._hashing = _HashingFileSystem()

    @property
    def written(self) -> dict[str, FileRecord]:
        """By name, the files that this process has written."""
        return {Path(path).name.removesuffix(".tmp"): record for path, record in self._hashing.records.items()}

    def storage_meta(self) -> StorageMeta:
        return StorageMeta(save_id=self.save_id)  # without the path: a checkpoint may be moved


class SafeReader(FileSystemReader):
    """Reads tensors alone; the index, which is a pickle, through an unpickler that knows its few classes and no other.

    Raises:
        CheckpointError: the index asks for anything else.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path) / INDEX_FILE
        with path.open("rb") as file:
            metadata = _IndexUnpickler(file, path).load()
        if not isinstance(metadata, Metadata):
            raise CheckpointError(f"{path} is no index of a checkpoint; restore the file or delete the checkpoint")
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


INDEX_FILE = ".metadata"

_SAFE = {
    "torch": {"Size", *(name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype))},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        "_MEM_FORMAT_ENCODING",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
}


class _IndexUnpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if name not in _SAFE.get(module, ()):
            raise CheckpointError(
                f"{self._path} asks for {module}.{name}, which an index of tensors has no use for; it was not written "
                f"by unipool_dist, or tampered with, and is not loaded"
            )
        return super().find_class(module, name)


class _HashingStream(io.BufferedWriter):
    """A file that is written once, from start to end, and whose ``record`` is known once it is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "wb"), buffer_size=1 << 20)
        self._hash = xxhash.xxh3_128()
        self.record: FileRecord | None = None

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return super().write(data)

    def close(self) -> None:
        if not self.closed:
            self.flush()
            self.record = FileRecord(self.tell(), self._hash.hexdigest())
        super().close()


class _HashingFileSystem(FileSystem):
    def __init__(self) -> None:
        self.records: dict[str, FileRecord] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike, mode: str) -> Generator[io.IOBase, None, None]:
        assert mode == "wb"
        with _HashingStream(Path(path)) as stream:
            yield stream
        assert stream.record is not None
        self.records[str(path)] = stream.record
