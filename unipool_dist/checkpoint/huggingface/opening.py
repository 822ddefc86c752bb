"""Open a model that transformers, or this project for transformers, has written. Nothing in it is executed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from unipool_dist.base.names import OutsideError, plain_name, regular_inside
from unipool_dist.base.progress_bars import Bar, no_bar
from unipool_dist.base.reading import read_json
from unipool_dist.checkpoint.huggingface.config_json import CONFIG_JSON
from unipool_dist.checkpoint.huggingface.incoming_config import Meaning, overrides, read_meaning
from unipool_dist.checkpoint.huggingface.names import Dialect, places
from unipool_dist.checkpoint.manifest import CONFIG_FILE, FileRecord, content_faults, join_faults
from unipool_dist.checkpoint.offline.export_format import EXPORT_FILE, INDEX_FILE, read_export_record, shard_name
from unipool_dist.checkpoint.offline.incoming import (
    Expected,
    Incoming,
    Read,
    check_size,
    open_files,
    refuse_faults,
    tensor_faults,
)
from unipool_dist.config import Config, Plan, load_config, load_written, resolve_model
from unipool_dist.errors import CheckpointError, ConfigError
from unipool_dist.model.families import inventory
from unipool_dist.model.inventory import Inventory

_DTYPES = ("F64", "F32", "F16", "BF16")
_OUTPUT, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_BIAS_RATE = 0.001
"""``pool.balance.bias_rate`` of a model whose routers have a bias, if nothing says it: that of arXiv 2412.19437."""


def is_public(folder: Path) -> bool:
    """Return whether ``folder`` holds a model for transformers."""
    return (folder / CONFIG_JSON).exists()


def open_public(folder: Path, chosen: Sequence[str] = (), bar: Bar = no_bar) -> Incoming:
    """Open the model in ``folder``, whose tensors are those of an equal model of ours.

    Where the output layer is the embedding and the family has two of them, both begin with the same values.

    Args:
        chosen: ``section.field=value`` of the run that is to begin with it.

    Raises:
        CheckpointError: there is no equal model, a file is damaged or missing, or tensors have no place here, are
            missing, or of another shape or type; all are named.
    """
    meaning = read_meaning(folder)
    paths = _weight_files(folder)
    num_bytes = _verify(folder, paths, bar)
    files = open_files(paths)
    config = _config(folder, meaning, chosen)
    check_size(config, folder, num_bytes, CONFIG_JSON)
    try:
        plan = resolve_model(config)
        tensors = inventory(plan)
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG_JSON} cannot be used: {error}") from None
    dialect = meaning.dialect if _OUTPUT in files else {**meaning.dialect, "output.weight": (_EMBEDDING,)}
    expected = _expected(plan, tensors, dialect)
    remedy = "It has no equal here"
    refuse_faults(tensor_faults(files, expected, _DTYPES, _ignored(tensors)), folder, CONFIG_JSON, remedy)
    return Incoming(config, meaning.tokenizer_hash, tensors, _reader(plan, tensors, dialect, files))


def _config(folder: Path, meaning: Meaning, chosen: Sequence[str]) -> Config:
    """Return the configuration of the run that an export names, if it does, of the shape that the model has."""
    settings = overrides(meaning.settings)
    try:
        is_ours = (folder / CONFIG_FILE).exists()
        base = load_written(regular_inside(folder, CONFIG_FILE)) if is_ours else load_config(None)
        rate = (base.pool.balance.bias_rate or _BIAS_RATE) if meaning.has_bias else 0.0
        every = [*settings, f"pool.balance.bias_rate={rate}", *chosen]
        config = load_written(folder / CONFIG_FILE, every) if is_ours else load_config(None, every)
    except (ConfigError, OutsideError) as error:
        raise CheckpointError(f"the configuration of {folder} cannot be used: {error}") from None
    if meaning.window is not None and config.model.sequence_length > meaning.window:
        raise CheckpointError(
            f"model.sequence_length={config.model.sequence_length} is longer than the window of {meaning.window} "
            f"tokens in which the model attends; choose {meaning.window} or less"
        )
    return config


def _weight_files(folder: Path) -> list[Path]:
    """Return the files with weights, as the index names them, or the only one."""
    try:
        names = [shard_name(1, 1)]
        if (folder / INDEX_FILE).exists():
            values = read_json(regular_inside(folder, INDEX_FILE))
            names = sorted({plain_name(name) for name in values["weight_map"].values()})
        paths = [regular_inside(folder, name) for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OutsideError) as error:
        raise CheckpointError(f"{folder / INDEX_FILE} cannot be read: {type(error).__name__}: {error}") from None
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing[:3])}; copy the model again or, as only safetensors are read, load it "
            f"with transformers and save it"
        )
    return paths


def _verify(folder: Path, paths: Sequence[Path], bar: Bar) -> int:
    """Compare the files with the hashes in ``export.json``, if there is one; return their bytes."""
    if (folder / EXPORT_FILE).exists():
        hashes = {n: FileRecord(f.num_bytes, f.xxh3_128) for n, f in read_export_record(folder).files.items()}
        faults = [f"{path} is not in it" for path in paths if path.name not in hashes]
        with bar("verifying", sum(file.num_bytes for file in hashes.values())) as count:
            faults += content_faults(folder, hashes, count)
        if faults:
            raise CheckpointError(
                f"the weights are not those of {folder / EXPORT_FILE}: {join_faults(faults)}; copy them again or, if "
                f"they were trained further, delete {EXPORT_FILE}"
            )
    return sum(path.stat().st_size for path in paths)


def _expected(plan: Plan, tensors: Inventory, dialect: Dialect) -> list[Expected]:
    found: dict[str, Expected] = {}
    for spec in tensors:
        rows = places(spec, plan, dialect)
        for name in dict.fromkeys(part.name for part in rows):
            here = [part for part in rows if part.name == name]
            if here[0].entry is not None:
                shape = (plan.pool.num_experts, *spec.shape)
            else:
                shape = (sum(part.count for part in here), *spec.shape[1:])
            found[name] = Expected(name, shape)
    return list(found.values())


def _ignored(tensors: Inventory) -> Callable[[str], bool]:
    """Return whether a tensor may be left out: one that is computed, or the copy of a tied one."""

    def ignored(name: str) -> bool:
        return name.endswith(".rotary_emb.inv_freq") or (name == _OUTPUT and bool(tensors.tied))

    return ignored


def _reader(plan: Plan, tensors: Inventory, dialect: Dialect, files: dict[str, Any]) -> Read:
    def read(name: str, first: int, values: Tensor) -> None:
        spec = tensors.find(name)
        assert spec is not None
        last = first + len(values)
        for part in places(spec, plan, dialect):
            begin, end = max(first, part.first), min(last, part.first + part.count)
            if begin < end:
                at = slice(part.at + begin - part.first, part.at + end - part.first)
                where = at if part.entry is None else (part.entry, at)
                values[begin - first : end - first].copy_(files[part.name].get_slice(part.name)[where])

    return read
