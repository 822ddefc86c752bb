"""The index of a checkpoint's tensors (``.metadata``): a pickle, read such that only an index can result.

Only the opcodes and names with which an index is written are accepted. They make stand-ins, new for each index, so that
nothing of torch can be changed. The index is built from these once everything in it has been checked: types, shapes,
and that every record is in a file of the manifest and overlaps no other.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from unipool_dist.base.names import regular_inside
from unipool_dist.base.printable import printable
from unipool_dist.base.reading import read_bytes
from unipool_dist.checkpoint.manifest import INDEX_FILE, FileRecord
from unipool_dist.errors import CheckpointError

_MAX_BYTES = 256 << 20
_SPARE_BYTES = 1 << 20
"""An index may be as large as the tensors that it lists, with a longer text for each, plus this."""
_MAX_NAME = 1000
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool)
"""Types of tensors of a checkpoint that numpy has too."""
_OPCODES = (
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 SHORT_BINUNICODE BINUNICODE EMPTY_DICT "
    "EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS STACK_GLOBAL NEWOBJ REDUCE "
    "BUILD MEMOIZE BINGET LONG_BINGET"
)
_KNOWN = {getattr(pickle, name)[0] for name in _OPCODES.split()}
_MODULE = "torch.distributed.checkpoint.metadata"


def read_index(folder: Path, files: Mapping[str, FileRecord]) -> Metadata:
    """Read the index of the checkpoint in ``folder``, whose manifest names ``files``.

    Raises:
        CheckpointError: it is damaged, asks for anything that an index has no use for, or does not fit the files.
    """
    path = folder / INDEX_FILE
    tensors = sum(record.num_bytes for name, record in files.items() if name != INDEX_FILE)
    try:
        data = read_bytes(regular_inside(folder, INDEX_FILE), max_bytes=min(_MAX_BYTES, tensors + _SPARE_BYTES))
        saved = _IndexUnpickler(data, path).load()
    except CheckpointError:
        raise
    except Exception as error:  # unpickling raises anything
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {printable(error)}") from None
    try:
        return _checked(saved, files)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not an index of a checkpoint: {printable(error)}; restore the file or delete the checkpoint"
        ) from None


class _IndexUnpickler(pickle._Unpickler):
    """Python's own unpickler: unlike the one in C it allocates no memory for sizes that an opcode merely claims."""

    dispatch: ClassVar = {code: make for code, make in pickle._Unpickler.dispatch.items() if code in _KNOWN}

    def __init__(self, data: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(data))
        self._path = path
        self._stand_ins: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        make = _STAND_INS.get((module, name))
        if make is None:
            raise CheckpointError(
                f"{self._path} asks for {printable(f'{module}.{name}')}, which an index of tensors has no use for; it "
                f"was not written by unipool_dist, or tampered with, and is not loaded"
            )
        return self._stand_ins.setdefault((module, name), make(name))


def _record(name: str) -> Any:
    """Make a class of objects that only keep what they were given."""

    def keep(self: Any, state: Any) -> None:
        self.state = state

    return type(name, (), {"__setstate__": keep, "state": None})


def _nothing(name: str) -> Any:
    """Make a stand-in for a function whose result an index of ours never needs."""
    return lambda *arguments: None


_STAND_INS: dict[tuple[str, str], Callable[[str], Any]] = {
    ("torch", "Size"): lambda name: tuple,
    ("torch.serialization", "_get_layout"): _nothing,
    (_MODULE, "_MEM_FORMAT_ENCODING"): _nothing,
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _record,
    **{
        (_MODULE, name): _record
        for name in (
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
        )
    },
}


def _checked(saved: Any, files: Mapping[str, FileRecord]) -> Metadata:
    if type(saved).__name__ != "Metadata":
        _refuse("it holds something else")
    entries, storage = _dictionary(saved.state["state_dict_metadata"]), _dictionary(saved.state["storage_data"])
    index = Metadata({_name(name): _tensor(entry) for name, entry in entries.items()}, storage_data={})
    for key, info in storage.items():
        place = MetadataIndex(_name(key.state["fqn"]), _shape(key.state["offset"]))
        if place in index.storage_data:
            _refuse(f"{place.fqn} is at {tuple(place.offset or ())} twice")
        state = info.state
        index.storage_data[place] = _StorageInfo(state["relative_path"], state["offset"], state["length"])
    _check_records(index, files)
    return index


def _check_records(index: Metadata, files: Mapping[str, FileRecord]) -> None:
    """Check that every part of a tensor has a record in a file of the manifest, and that no two records overlap."""
    missing = dict(index.storage_data)
    for name, tensor in index.state_dict_metadata.items():
        assert isinstance(tensor, TensorStorageMetadata)
        for chunk in tensor.chunks:
            info = missing.pop(MetadataIndex(name, chunk.offsets), None)
            if info is None:
                _refuse(f"{name} has no record for its part at {tuple(chunk.offsets)}")
            if math.prod(chunk.sizes) * tensor.properties.dtype.itemsize > _count(info.length):
                _refuse(f"{name} is larger than its record")
    if missing:
        _refuse(f"{next(iter(missing)).fqn} has a record and is not a tensor")
    ends: dict[str, int] = {}
    for info in sorted(index.storage_data.values(), key=lambda info: (str(info.relative_path), _count(info.offset))):
        name = info.relative_path
        if not isinstance(name, str) or name not in files:
            _refuse(f"it names the file {name!r}, which is not in the manifest")
        if info.offset < ends.get(name, 0) or info.offset + info.length > files[name].num_bytes:
            _refuse(f"a record in {name} overlaps another or the file's end")
        ends[name] = info.offset + info.length


def _tensor(entry: Any) -> TensorStorageMetadata:
    if type(entry).__name__ != "TensorStorageMetadata":
        _refuse("it holds something that is not a tensor")
    dtype, size = entry.state["properties"].state[0], _shape(entry.state["size"])
    if dtype not in _DTYPES:
        _refuse(f"a tensor of it has type {dtype}")
    chunks = [
        ChunkStorageMetadata(_shape(chunk.state["offsets"]), _shape(chunk.state["sizes"]))
        for chunk in entry.state["chunks"]
    ]
    for chunk in chunks:
        if not len(chunk.offsets) == len(chunk.sizes) == len(size) or any(
            first + count > whole for first, count, whole in zip(chunk.offsets, chunk.sizes, size, strict=True)
        ):
            _refuse(f"a tensor of shape {tuple(size)} has a part beyond it")
    if not chunks or sum(math.prod(chunk.sizes) for chunk in chunks) != math.prod(size):
        _refuse(f"a tensor of shape {tuple(size)} is not the sum of its parts")
    return TensorStorageMetadata(TensorProperties(dtype=dtype), size, chunks)


def _name(name: Any) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or printable(name) != name:
        _refuse("it has a name that is none of a tensor")
    return name


def _shape(sizes: Any) -> torch.Size:
    if not isinstance(sizes, tuple) or not sizes:
        _refuse(f"{type(sizes).__name__} is not a shape")
    return torch.Size(_count(size) for size in sizes)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        _refuse("it has a number that is out of range")
    return value


def _dictionary(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        _refuse(f"{type(value).__name__} is not a dictionary")
    return value


def _refuse(reason: str) -> NoReturn:
    raise ValueError(reason)
