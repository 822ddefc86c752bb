"""Export a checkpoint's weights as a model: safetensors, configuration, tokenizer; whole or not at all."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError

from unipool_dist.base.belongings import any_file, exists, listed, remove
from unipool_dist.base.drafts import LOCK_FILE, DraftLockedError, check_draft, draft_kind, locked_draft
from unipool_dist.base.progress_bars import Bar, no_bar
from unipool_dist.base.writing import flush, rename_durably, write_durably
from unipool_dist.checkpoint.huggingface.folder import FURTHER_FILES
from unipool_dist.checkpoint.manifest import CONFIG_FILE
from unipool_dist.checkpoint.offline.export_format import EXPORT_FILE, Dtype, ExportRecord
from unipool_dist.checkpoint.offline.export_forms import OWN_FORM, Form
from unipool_dist.checkpoint.offline.export_tokenizer import copy_tokenizer
from unipool_dist.checkpoint.offline.export_weights import WEIGHT_FILES, write_weights
from unipool_dist.checkpoint.offline.locate import Located
from unipool_dist.checkpoint.offline.tensor_reader import TensorInfo, TensorReader
from unipool_dist.checkpoint.progress import now
from unipool_dist.config import Plan, dump_config, resolve_model
from unipool_dist.config.run_stages import RunStages
from unipool_dist.config.staging import config_at
from unipool_dist.data.tokenizer import TOKENIZER_FILES
from unipool_dist.errors import CheckpointError, ConfigError
from unipool_dist.model.families import inventory
from unipool_dist.model.inventory import MASTER, split_key

_DRAFT = draft_kind(
    {
        WEIGHT_FILES: any_file,
        rf"{EXPORT_FILE}|{CONFIG_FILE}": any_file,
        "|".join(name for names in TOKENIZER_FILES.values() for name in names): any_file,
        "|".join(FURTHER_FILES): any_file,
    }
)


def export_model(
    located: Located, out: Path, dtype: Dtype, max_shard_bytes: int, bar: Bar = no_bar, form: Form = OWN_FORM
) -> tuple[ExportRecord, str | None]:
    """Write the fp32 masters, rounded to ``dtype`` except for routers, to the new directory ``out``.

    Returns the record, and if the tokenizer's files are missing, the reason. ``out`` is whole or absent: it is written
    as ``out.writing``, where the next export removes what a killed one has left. The process holds one file of weights
    at a time.

    Args:
        located: verified by :func:`unipool_dist.checkpoint.offline.locate.check_contents`.
        max_shard_bytes: a file of weights is smaller, or holds a single tensor.
        form: names of the tensors, and what is written with them.

    Raises:
        CheckpointError: the model cannot have this form, ``out`` exists already, another process is writing it, or
            reading or writing failed.
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
                written = _write(located, draft, dtype, max_shard_bytes, bar, form)
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


def planned(located: Located) -> Plan:
    """Return the plan of the model in a checkpoint, of the stage of its step.

    Raises:
        CheckpointError: its configuration describes none.
    """
    try:
        return resolve_model(config_at(located.config, located.progress.step))
    except ConfigError as error:
        raise CheckpointError(f"the configuration in {located.folder} cannot be used: {error}") from None


def _write(
    located: Located, draft: Path, dtype: Dtype, max_shard_bytes: int, bar: Bar, form: Form
) -> tuple[ExportRecord, str | None]:
    plan, reader = planned(located), TensorReader(located.folder)
    masters = _masters(located, reader, plan)
    files = write_weights(form.tensors(plan), masters, reader, draft, dtype, max_shard_bytes, bar)
    tokenizer_hash = located.progress.data.tokenizer_hash
    tokenizer_files, missing = copy_tokenizer(Path(plan.config.data.path), tokenizer_hash, draft)
    dump_config(config_at(located.config, located.progress.step), draft / CONFIG_FILE)
    record = ExportRecord(
        step=located.progress.step,
        tokens=RunStages.of(located.config).tokens(located.progress.step),
        dtype=dtype,
        num_parameters=sum(spec.numel * count for spec, count in inventory(plan).counted() if spec.trained),
        tokenizer_hash=tokenizer_hash,
        tokenizer_files=tokenizer_files,
        versions=located.progress.versions,
        exported_at=now(),
        files=files,
    )
    further, why = form.describe(draft, plan, record)
    for name in (CONFIG_FILE, *tokenizer_files, *further):
        flush(draft / name)
    write_durably(draft / EXPORT_FILE, record.dump())
    flush(draft)
    return record, missing or why


def _masters(located: Located, reader: TensorReader, plan: Plan) -> dict[str, TensorInfo]:
    """Return the masters in a checkpoint by tensor; they are those of the model that its configuration describes."""
    keys = {split_key(key): saved for key, saved in reader.tensors.items()}
    masters = {name: saved for (kind, name), saved in keys.items() if kind == MASTER}
    expected = inventory(plan)
    if len(expected) != len(masters) or any(
        (spec := expected.find(name)) is None or spec.shape != saved.shape for name, saved in masters.items()
    ):
        raise CheckpointError(
            f"the tensors in {located.folder} are not those of the model that its configuration describes; restore "
            f"the files, or export another step"
        )
    return masters
