"""What an exported model is on disk: safetensors files as Hugging Face names them, ``config.yaml``, ``export.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from unipool_dist.base.names import plain_name, regular_inside
from unipool_dist.base.reading import read_json
from unipool_dist.errors import CheckpointError

EXPORT_FILE = "export.json"
INDEX_FILE = "model.safetensors.index.json"
FORMAT_VERSION = 1

Dtype = Literal["fp32", "bf16"]
Count = Annotated[int, Field(ge=0, lt=1 << 62)]
FileName = Annotated[str, AfterValidator(plain_name)]
"""A name of a file in the export's own folder."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExportedFile(_Record):
    """What a file with weights must be."""

    num_bytes: Count
    xxh3_128: str


class ExportRecord(_Record):
    """``export.json``, the last file to be written."""

    format: Literal["unipool-dist export"] = "unipool-dist export"
    format_version: int = FORMAT_VERSION
    step: Count
    tokens: Count
    """Number of tokens on which the model was trained."""
    dtype: Dtype
    """Type of all weights but the routers', which are always fp32."""
    num_parameters: Count
    tokenizer_hash: str | None
    tokenizer_files: tuple[FileName, ...]
    versions: dict[str, str]
    """Software that wrote the run."""
    exported_at: str
    files: dict[FileName, ExportedFile]

    def dump(self) -> str:
        """Return the text of ``export.json``."""
        return self.model_dump_json(indent=1) + "\n"


def shard_name(number: int, count: int) -> str:
    """Return the name of the file ``number`` (from 1) of ``count``."""
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def read_export_record(path: Path) -> ExportRecord:
    """Read ``export.json`` of the exported model in ``path``.

    Raises:
        CheckpointError: there is none, it is damaged, it names a file elsewhere, or it is of a later format.
    """
    file = path / EXPORT_FILE
    try:
        values = read_json(regular_inside(path, EXPORT_FILE))
        if values.get("format_version", 0) > FORMAT_VERSION:
            raise CheckpointError(
                f"{file} has format_version={values['format_version']}, this unipool_dist reads up to "
                f"{FORMAT_VERSION}; install a newer one"
            )
        return ExportRecord.model_validate(values)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"{path} is not an exported model: it has no {EXPORT_FILE}; give a directory that `unipool-dist checkpoint "
            f"export` has written"
        ) from None
    except (OSError, ValueError, AttributeError, TypeError, ValidationError) as error:
        raise CheckpointError(f"{file} cannot be read: {type(error).__name__}: {error}; export again") from None
