"""Write the weights of a checkpoint into safetensors files of bounded size, under the names of a form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from unipool_dist.base.progress_bars import Bar, Count
from unipool_dist.base.writing import flush, write_durably
from unipool_dist.checkpoint.huggingface.names import Public
from unipool_dist.checkpoint.manifest import hash_file
from unipool_dist.checkpoint.offline.export_format import INDEX_FILE, Dtype, ExportedFile, shard_name
from unipool_dist.checkpoint.offline.tensor_reader import TensorInfo, TensorReader

WEIGHT_FILES = r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"
"""The names of the files, as a regular expression."""
DTYPES: Mapping[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def write_weights(
    tensors: Sequence[Public],
    masters: Mapping[str, TensorInfo],
    reader: TensorReader,
    folder: Path,
    dtype: Dtype,
    max_bytes: int,
    bar: Bar,
) -> dict[str, ExportedFile]:
    """Write ``tensors`` and, if they need several files, an index; return the files by name.

    The process holds one file of weights at a time.

    Args:
        masters: by name, the tensors in the checkpoint that ``reader`` reads.
        max_bytes: a file is smaller, or holds a single tensor.
    """
    shards = _shards(tensors, dtype, max_bytes)
    names = [shard_name(number, len(shards)) for number in range(1, len(shards) + 1)]
    with bar("exporting", sum(4 * tensor.numel for tensor in tensors)) as count:
        files = {
            name: _write_shard(shard, _Masters(masters, reader), folder / name, dtype, count)
            for name, shard in zip(names, shards, strict=True)
        }
    if len(shards) > 1:
        file_of = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(_num_bytes(tensor, dtype) for tensor in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(file_of.items()))}
        write_durably(folder / INDEX_FILE, json.dumps(index, indent=2) + "\n")
    return files


class _Masters:
    """The masters. The last one read is kept, as neighbouring public tensors may be parts of it."""

    def __init__(self, masters: Mapping[str, TensorInfo], reader: TensorReader) -> None:
        self._masters, self._reader = masters, reader
        self._name, self._values = "", torch.empty(0)

    def read(self, name: str) -> torch.Tensor:
        if name != self._name:
            self._name, self._values = name, self._reader.whole(self._masters[name])
        return self._values


def _write_shard(shard: Sequence[Public], masters: _Masters, path: Path, dtype: Dtype, count: Count) -> ExportedFile:
    tensors: dict[str, torch.Tensor] = {}
    for tensor in shard:
        values = torch.empty(tensor.shape, dtype=_dtype(tensor, dtype))
        rows = values.flatten(0, 1) if tensor.sources[0][1].entry is not None else values
        first = 0
        for spec, part in tensor.sources:
            rows[first : first + part.count] = masters.read(spec.name)[part.first : part.first + part.count]
            first += part.count
        tensors[tensor.name] = values
        count(4 * tensor.numel)
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors lets nobody else read it
    flush(path)
    record = hash_file(path)
    return ExportedFile(num_bytes=record.num_bytes, xxh3_128=record.xxh3_128)


def _shards(tensors: Iterable[Public], dtype: Dtype, max_bytes: int) -> list[list[Public]]:
    shards: list[list[Public]] = []
    room = 0
    for tensor in tensors:
        num_bytes = _num_bytes(tensor, dtype)
        if not shards or num_bytes > room:
            shards.append([])
            room = max_bytes
        shards[-1].append(tensor)
        room -= num_bytes
    return shards


def _num_bytes(tensor: Public, dtype: Dtype) -> int:
    return tensor.numel * _dtype(tensor, dtype).itemsize


def _dtype(tensor: Public, dtype: Dtype) -> torch.dtype:
    return torch.float32 if tensor.dtype == "fp32" else DTYPES[dtype]
