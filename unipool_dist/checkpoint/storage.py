"""Files of torch.distributed.checkpoint: hashed while they are written, read without executing anything in them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from unipool_dist.base.names import regular_inside
from unipool_dist.checkpoint.manifest import FileRecord
from unipool_dist.checkpoint.records import RecordFile, read_part


class HashingWriter(FileSystemWriter):
    """A writer of one file per rank, flushed to disk, that knows the size and hash of every file it has written."""

    def __init__(self, path: Path) -> None:
        # Nothing is copied ahead: with a GPU torch would then write tensors in the order of their sizes.
        super().__init__(path, per_thread_copy_ahead=0)
        self.fs = self._hashing = _HashingFileSystem()

    @property
    def written(self) -> dict[str, FileRecord]:
        """By name, the files that this process has written."""
        return {Path(path).name.removesuffix(".tmp"): record for path, record in self._hashing.records.items()}

    def storage_meta(self) -> StorageMeta:
        return StorageMeta(save_id=self.save_id)  # without the path: a checkpoint may be moved


class SafeReader(FileSystemReader):
    """A reader that loads tensor data only; it never unpickles a record.

    Args:
        index: from :func:`~unipool_dist.checkpoint.index.read_index`; only files that it names are opened. It is read
            beforehand, because torch.distributed.checkpoint would log an error of it with its traceback, and retry.
        wait_for: called with a file's name and a position in it before anything up to there is read.
    """

    def __init__(
        self,
        path: Path,
        index: Metadata,
        wait_for: Callable[[str, int], None] = lambda name, num_bytes: None,
    ) -> None:
        super().__init__(path)
        self._wait_for = wait_for
        self._index = index

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        self._index.storage_meta = StorageMeta(load_id=self.load_id)
        return self._index

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        files: dict[str, RecordFile] = {}
        try:
            for item in sorted(plan.items, key=lambda item: (self._info(item).relative_path, self._info(item).offset)):
                info = self._info(item)
                if info.relative_path not in files:
                    files[info.relative_path] = RecordFile(regular_inside(Path(self.path), info.relative_path))
                tensor = self._index.state_dict_metadata[item.storage_index.fqn]
                assert isinstance(tensor, TensorStorageMetadata)
                chunk = next(chunk for chunk in tensor.chunks if chunk.offsets == item.storage_index.offset)
                whole = torch.empty(chunk.sizes, dtype=tensor.properties.dtype, device="meta")
                part = narrow_tensor_by_index(whole, item.storage_offsets, item.lengths)
                target = planner.resolve_tensor(item)
                self._wait_for(info.relative_path, info.offset + info.length)
                read_part(files[info.relative_path], info.offset, info.length, whole, part, target)
                planner.commit_tensor(item, target)
        finally:
            for file in files.values():
                file.close()
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _info(self, item: ReadItem) -> Any:
        """Return file, offset and length of the record that an item is read from."""
        return self.storage_data[item.storage_index]


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
        try:
            if not self.closed:
                self.flush()
                self.record = FileRecord(self.tell(), self._hash.hexdigest())
        finally:  # on a full disk too, or the file would keep its room even after it is deleted
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
