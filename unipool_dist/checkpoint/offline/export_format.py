"""What an exported model is on disk: safetensors files as Hugging Face names them, ``config.yaml``, ``export.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from unipool_dist.errors import CheckpointError

EXPORT_FILE = "export.json"
INDEX_FILE = "model.safetensors.index.json"
FORMAT_VERSION = 1

Dtype = Literal["fp32", "bf16"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExportedFile(_Record):
    """What a file with weights must be."""

    num_bytes: int
    xxh3_128: str


class ExportRecord(_Record):
    """``export.json``, the last file to be written."""

    format: Literal["unipool-dist export"] = "unipool-dist export"
    format_version: int = FORMAT_VERSION
    step: int
    tokens: int
    """On which the model was trained."""
    dtype: Dtype
    """Of all weights but the routers', which are fp32 always."""
    num_parameters: int
    tokenizer_hash: str | None
    tokenizer_files: tuple[str, ...]
    versions: dict[str, str]
    """Of the run."""
    exported_at: str
    files: dict[str, ExportedFile]

    def dump(self) -> str:
        """The text of ``export.json``."""
        return self.model_dump_json(indent=1) + "\n"


def shard_name(number: int, count: int) -> str:
    """The name of the file ``number`` (from 1) of ``count``."""
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def is_bias(name: str) -> bool:
    """Whether this is the bias of a router, which is no parameter."""
    return name.endswith(".router.bias")


def is_router(name: str) -> bool:
    """Whether the parameter or bias belongs to a router and so stays in fp32."""
    return ".router." in name


def read_export_record(path: Path) -> ExportRecord:
    """Read ``export.json`` of the exported model in ``path``.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of a later format.
    """
    file = path / EXPORT_FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.get("format_version", 0) > FORMAT_VERSION:
            raise CheckpointError(
                f"{file} has format_version={values['format_version']}, this unipool_dist reads up to "
                f"{FORMAT_VERSION}; install a newer one"
            )
        return ExportRecord.model_validate(values)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"{path} is no exported model: it has no {EXPORT_FILE}; give a directory that `unipool-dist checkpoint "
            f"export` has written"
        ) from None
    except (OSError, ValueError, AttributeError, TypeError, ValidationError) as error:
        raise CheckpointError(f"{file} cannot be read: {type(error).__name__}: {error}; export again") from None
