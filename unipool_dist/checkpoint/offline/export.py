"""Export a checkpoint's weights as a model: safetensors, configuration, tokenizer; whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from unipool_dist.base.belongings import any_file, exists, listed, remove
from unipool_dist.base.drafts import LOCK_FILE, DraftLockedError, check_draft, draft_kind, locked_draft
from unipool_dist.base.progress_bars import Bar, Count, no_bar
from unipool_dist.base.writing import flush, rename_durably, write_durably
from unipool_dist.checkpoint.manifest import CONFIG_FILE, hash_file
from unipool_dist.checkpoint.offline.export_format import (
    EXPORT_FILE,
    INDEX_FILE,
    Dtype,
    ExportedFile,
    ExportRecord,
    shard_name,
)
from unipool_dist.checkpoint.offline.export_tokenizer import copy_tokenizer
from unipool_dist.checkpoint.offline.locate import Located
from unipool_dist.checkpoint.offline.tensor_reader import TensorInfo, TensorReader
from unipool_dist.checkpoint.progress import now
from unipool_dist.config import dump_config, resolve_model
from unipool_dist.config.run_stages import RunStages
from unipool_dist.config.staging import config_at
from unipool_dist.data.tokenizer import TOKENIZER_FILES
from unipool_dist.errors import CheckpointError, ConfigError
from unipool_dist.model.families import inventory
from unipool_dist.model.inventory import MASTER, TensorSpec, split_key

_DRAFT = draft_kind(
    {
        r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?": any_file,
        rf"{EXPORT_FILE}|{CONFIG_FILE}": any_file,
        "|".join(name for names in TOKENIZER_FILES.values() for name in names): any_file,
    }
)
_DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
_Saved = tuple[TensorSpec, TensorInfo]
"""A tensor of the model, and its master in the checkpoint."""


def export_model(
    located: Located, out: Path, dtype: Dtype, max_shard_bytes: int, bar: Bar = no_bar
) -> tuple[ExportRecord, str | None]:
    """Write the fp32 masters, rounded to ``dtype`` except for routers, to the new directory ``out``.

    Returns the record, and if the tokenizer's files are missing, the reason. ``out`` is whole or absent: it is written
    as ``out.writing``, where the next export removes what a killed one has left. The process holds one file of weights
    at a time.

    Args:
        located: verified by :func:`unipool_dist.checkpoint.offline.locate.check_contents`.
        max_shard_bytes: a file of weights is smaller, or holds a single tensor.

    Raises:
        CheckpointError: ``out`` exists already, another process is writing it, or reading or writing failed.
        ForeignError: see :func:`check_free`.
    """
    check_free(out)
    out = out.absolute()
    draft = _draft_of(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{out} cannot be made: {error}; choose a directory that can be written") from None
    try:
        with locked_draft(draft, _DRAFT, purpose=f"exporting to {out}"):
            try:
                written = _write(located, draft, dtype, max_shard_bytes, bar)
                rename_durably(draft, out)
                remove(out / LOCK_FILE, any_file)
            finally:
                remove(draft, _DRAFT)
    except DraftLockedError as error:
        raise CheckpointError(f"another export is writing {out}: {error}; wait for it") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{out} could not be written: {error}; make room or repair the file system") from error
    return written


def check_free(out: Path) -> None:
    """Refuse a place that :func:`export_model` would refuse.

    Raises:
        CheckpointError: there is something at ``out``.
        ForeignError: there is something in ``out.writing`` that no export has left.
    """
    if exists(out):
        raise CheckpointError(f"{listed([out])} exists already; choose another directory or delete it")
    check_draft(_draft_of(out.absolute()), _DRAFT, purpose=f"exporting to {out}")


def _draft_of(out: Path) -> Path:
    return out.with_name(out.name + ".writing")


def _write(
    located: Located, draft: Path, dtype: Dtype, max_shard_bytes: int, bar: Bar
) -> tuple[ExportRecord, str | None]:
    reader = TensorReader(located.folder)
    tensors = _tensors(located, reader)
    shards = _shards(tensors, dtype, max_shard_bytes)
    with bar("exporting", sum(saved.num_bytes for _, saved in tensors)) as count:
        files = {
            shard_name(number, len(shards)): _write_shard(
                reader, shard, draft / shard_name(number, len(shards)), dtype, count
            )
            for number, shard in enumerate(shards, start=1)
        }
    if len(shards) > 1:
        _write_index(shards, draft / INDEX_FILE, dtype)
    tokenizer_hash = located.progress.data.tokenizer_hash
    config = config_at(located.config, located.progress.step)  # stages are about a run, and this is its model
    tokenizer_files, missing = copy_tokenizer(Path(config.data.path), tokenizer_hash, draft)
    dump_config(config, draft / CONFIG_FILE)
    for name in (CONFIG_FILE, *tokenizer_files):
        flush(draft / name)
    record = ExportRecord(
        step=located.progress.step,
        tokens=RunStages.of(located.config).tokens(located.progress.step),
        dtype=dtype,
        num_parameters=sum(spec.numel for spec, _ in tensors if spec.trained),
        tokenizer_hash=tokenizer_hash,
        tokenizer_files=tokenizer_files,
        versions=located.progress.versions,
        exported_at=now(),
        files=files,
    )
    write_durably(draft / EXPORT_FILE, record.dump())
    flush(draft)
    return record, missing


def _tensors(located: Located, reader: TensorReader) -> list[_Saved]:
    """Return the tensors of the model in the order of its inventory, each with its master."""
    keys = {split_key(key): saved for key, saved in reader.tensors.items()}
    masters = {name: saved for (kind, name), saved in keys.items() if kind == MASTER}
    try:
        expected = inventory(resolve_model(located.config))
    except ConfigError as error:
        raise CheckpointError(f"the configuration in {located.folder} cannot be used: {error}") from None
    if len(expected) != len(masters) or any(
        (spec := expected.find(name)) is None or spec.shape != saved.shape for name, saved in masters.items()
    ):
        raise CheckpointError(
            f"the tensors in {located.folder} are not those of the model that its configuration describes; restore "
            f"the files, or export another step"
        )
    return [(spec, masters[spec.name]) for spec in expected]


def _write_shard(reader: TensorReader, shard: Sequence[_Saved], path: Path, dtype: Dtype, count: Count) -> ExportedFile:
    tensors: dict[str, torch.Tensor] = {}
    for spec, saved in shard:
        tensors[spec.name] = reader.whole(saved).to(_dtype(spec, dtype))
        count(saved.num_bytes)
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors lets nobody else read it
    flush(path)
    record = hash_file(path)
    return ExportedFile(num_bytes=record.num_bytes, xxh3_128=record.xxh3_128)


def _write_index(shards: Sequence[Sequence[_Saved]], path: Path, dtype: Dtype) -> None:
    file_of = {
        spec.name: shard_name(number, len(shards)) for number, shard in enumerate(shards, start=1) for spec, _ in shard
    }
    total = sum(_num_bytes(spec, dtype) for shard in shards for spec, _ in shard)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(file_of.items()))}
    write_durably(path, json.dumps(index, indent=2) + "\n")


def _shards(tensors: Iterable[_Saved], dtype: Dtype, max_bytes: int) -> list[list[_Saved]]:
    shards: list[list[_Saved]] = []
    room = 0
    for spec, saved in tensors:
        num_bytes = _num_bytes(spec, dtype)
        if not shards or num_bytes > room:
            shards.append([])
            room = max_bytes
        shards[-1].append((spec, saved))
        room -= num_bytes
    return shards


def _num_bytes(spec: TensorSpec, dtype: Dtype) -> int:
    return spec.numel * _dtype(spec, dtype).itemsize


def _dtype(spec: TensorSpec, dtype: Dtype) -> torch.dtype:
    return torch.float32 if spec.dtype == "fp32" else _DTYPES[dtype]
