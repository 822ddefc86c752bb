"""A run that begins with the weights of a model from elsewhere, of an export, or of another run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from unipool_dist.base.machine import current_versions
from unipool_dist.base.names import OutsideError, regular_inside
from unipool_dist.base.progress_bars import Bar, no_bar
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.huggingface.opening import is_public, open_public
from unipool_dist.checkpoint.manifest import CONFIG_FILE, FileRecord, content_faults, join_faults
from unipool_dist.checkpoint.offline.cuts import cut_into_files
from unipool_dist.checkpoint.offline.export_format import ExportRecord, read_export_record
from unipool_dist.checkpoint.offline.incoming import (
    Expected,
    Incoming,
    check_size,
    open_files,
    refuse_faults,
    tensor_faults,
)
from unipool_dist.checkpoint.offline.locate import Located
from unipool_dist.checkpoint.offline.rewrite import Read, rewrite_checkpoint
from unipool_dist.checkpoint.offline.tensor_reader import TensorReader
from unipool_dist.checkpoint.pieces import Piece, whole
from unipool_dist.checkpoint.progress import DataIdentity, Progress, now
from unipool_dist.config import Config, dump_config, load_written, resolve_model
from unipool_dist.errors import CheckpointError, ConfigError
from unipool_dist.model.families import inventory
from unipool_dist.model.inventory import MASTER, Inventory, split_key, state_key

_DTYPES = ("F32", "BF16")
_FILE_BYTES = 4 << 30
"""Bytes of tensors in one file of the checkpoint, so that the ranks of a large run share its verification."""


def open_model(path: Path, chosen: Sequence[str] = (), bar: Bar = no_bar) -> Incoming:
    """Open the model in ``path``: of this project, or of transformers.

    Args:
        chosen: ``section.field=value`` of the run that is to begin with it.

    Raises:
        CheckpointError: as of :func:`open_export` or :func:`open_public`.
    """
    return open_public(path, chosen, bar) if is_public(path) else open_export(path, bar, chosen)


def open_export(path: Path, bar: Bar = no_bar, chosen: Sequence[str] = ()) -> Incoming:
    """Open the exported model in ``path``, compare its files with their hashes and its tensors with its configuration.

    Raises:
        CheckpointError: it is not an exported model, it is damaged, or a tensor is missing or of another shape or type.
    """
    record = read_export_record(path)
    config, tensors = _read_config(path, chosen)
    num_bytes = verify_files(path, record, bar)
    files = open_files([path / name for name in record.files])
    check_size(config, path, num_bytes, CONFIG_FILE)
    expected = [Expected(spec.name, spec.shape) for spec in tensors]
    refuse_faults(tensor_faults(files, expected, _DTYPES, lambda _: False), path, CONFIG_FILE, "Export again")

    def read(name: str, first: int, values: Tensor) -> None:
        values.copy_(files[name].get_slice(name)[first : first + len(values)])  # widens bf16

    return Incoming(config, record.tokenizer_hash, tensors, read)


def verify_files(path: Path, record: ExportRecord, bar: Bar = no_bar) -> int:
    """Compare the files of weights with their hashes; return their bytes.

    Raises:
        CheckpointError: one is missing or damaged.
    """
    hashes = {name: FileRecord(file.num_bytes, file.xxh3_128) for name, file in record.files.items()}
    num_bytes = sum(file.num_bytes for file in hashes.values())
    with bar("verifying", num_bytes) as count:
        faults = content_faults(path, hashes, count)
    if faults:
        raise CheckpointError(f"the exported model is damaged: {join_faults(faults)}; export or copy it again")
    return num_bytes


def import_model(model: Incoming, run_dir: Path, bar: Bar = no_bar) -> CheckpointDirectory:
    """Make ``run_dir`` a run before its first step, with these weights and nothing else.

    Its checkpoint of step 0 has masters and no optimizer states, and may be trained on any corpus with the same
    tokenizer.

    Args:
        run_dir: locked by the caller.

    Raises:
        CheckpointError: ``run_dir`` holds a run already, or cannot be written; then no checkpoint is left.
    """
    pieces = [whole(state_key(MASTER, spec.name), spec.shape, "float32") for spec in model.tensors]
    with bar("importing", sum(piece.num_bytes for piece in pieces)) as count:

        def read(piece: Piece, values: Tensor) -> None:
            (_, name), first = split_key(piece.key), piece.shard_offset[0]
            model.read(name, first, values.view(piece.shard_shape))
            count(piece.num_bytes)

        return _begin(run_dir, model.config, model.tokenizer_hash, pieces, read)


def import_checkpoint(located: Located, run_dir: Path, bar: Bar = no_bar) -> CheckpointDirectory:
    """Make ``run_dir`` a run before its first step, with the weights of another run's checkpoint and nothing else.

    Args:
        located: verified by :func:`unipool_dist.checkpoint.offline.locate.check_contents`.
        run_dir: locked by the caller.

    Raises:
        CheckpointError: as for :func:`import_model`, or the checkpoint cannot be read.
    """
    reader = TensorReader(located.folder)
    pieces = [tensor.piece for key, tensor in reader.tensors.items() if split_key(key)[0] == MASTER]
    with bar("importing", sum(piece.num_bytes for piece in pieces)) as count:

        def read(piece: Piece, values: Tensor) -> None:
            reader.read(piece, values)
            count(piece.num_bytes)

        return _begin(run_dir, located.config, located.progress.data.tokenizer_hash, pieces, read)


def _begin(
    run_dir: Path, config: Config, tokenizer_hash: str | None, pieces: list[Piece], read: Read
) -> CheckpointDirectory:
    """Write the checkpoint of step 0 with ``pieces``, and the configuration of the run.

    In the latter the numbers of processes are left open, as nothing that is loaded depends on them.
    """
    directory = CheckpointDirectory(run_dir)
    check_is_no_run(run_dir)
    progress = Progress(
        step=0,
        consumed_samples=0,
        schedule_steps=0,
        optimizer_states=False,
        data=DataIdentity(tokenizer_hash=tokenizer_hash, content_hash=None, segments=()),
        random=None,
        versions=current_versions(),
        layout={},
        written_at=now(),
    )
    config = config.model_copy(update={"run": config.run.model_copy(update={"dir": str(run_dir)})})
    num_bytes = sum(piece.num_bytes for piece in pieces)
    rewrite_checkpoint(directory, progress, config, cut_into_files(pieces, -(-num_bytes // _FILE_BYTES)), read)
    parallel = config.parallel.model_copy(update={"pp": 1, "dp": "auto", "tp": 1})
    pool = config.pool.model_copy(update={"parallel_size": None, "stages_per_group": None})
    dump_config(config.model_copy(update={"parallel": parallel, "pool": pool}), RunDirectory(run_dir).config)
    return directory


def num_parameters(config: Config) -> int:
    """Return the number of trained weights of the model that a resolved configuration describes."""
    return sum(spec.numel for spec in inventory(resolve_model(config)) if spec.trained)


def check_is_no_run(run_dir: Path) -> None:
    """Refuse a directory that holds a run.

    Raises:
        CheckpointError: it does.
    """
    if (RunDirectory(run_dir).config).exists() or CheckpointDirectory(run_dir).steps():
        raise CheckpointError(f"{run_dir} holds a run already; choose another directory or delete it")


def _read_config(folder: Path, chosen: Sequence[str]) -> tuple[Config, Inventory]:
    path = folder / CONFIG_FILE
    try:
        config = load_written(regular_inside(folder, CONFIG_FILE), chosen)
        model, pool = config.model, config.pool
        if None in (model.vocab_size, model.ffn_hidden_size, model.num_query_groups, pool.layers_per_group):
            raise CheckpointError(f"{path} leaves sizes of the model open, as no exported one does; export again")
        return config, inventory(resolve_model(config))
    except (ConfigError, OutsideError) as error:
        raise CheckpointError(f"{path} cannot be used: {error}; export again") from None
