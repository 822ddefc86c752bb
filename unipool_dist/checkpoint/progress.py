"""A checkpoint's ``state.json``: the progress of the run, and the data it was trained on."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unipool_dist.base.names import OutsideError, regular_inside
from unipool_dist.base.reading import read_json
from unipool_dist.checkpoint.manifest import CONFIG_FILE, STATE_FILE
from unipool_dist.config import Config, load_written
from unipool_dist.errors import CheckpointError, ConfigError

FORMAT_VERSION = 1
_MAX_SEGMENTS = 10_000

Count = Annotated[int, Field(ge=0, lt=1 << 62)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataIdentity(_Record):
    """The identity of a run's training data; two runs with equal values see the same tokens."""

    tokenizer_hash: str | None
    content_hash: str | None
    """``None`` in a checkpoint made from an exported model, which may be trained on any corpus."""
    segments: Annotated[tuple[Annotated[int, Field(gt=0, lt=1 << 62)], ...], Field(max_length=_MAX_SEGMENTS)]
    """Samples for which the order of the data was drawn; a second number is there if the run was made longer later."""


class RandomState(_Record):
    """Generators other than torch's, whose state is a tensor of the checkpoint."""

    python: list[Any]
    numpy: list[Any]


class Progress(_Record):
    """The progress of a run after ``step`` steps."""

    format_version: int = FORMAT_VERSION
    step: Count
    consumed_samples: Count
    schedule_steps: Count
    """Position in the learning-rate schedule, and in Adam's bias correction."""
    optimizer_states: bool
    """Whether there are optimizer states; not in a checkpoint made from an exported model."""
    data: DataIdentity
    random: RandomState | None
    versions: dict[str, str]
    layout: dict[str, int]
    """Layout of the run that wrote it, for people; loading does not need it."""
    written_at: str

    def dump(self) -> str:
        """Return the text of ``state.json``."""
        return self.model_dump_json(indent=1) + "\n"


def read_progress(folder: Path, step: int | None = None) -> Progress:
    """Read ``state.json`` of the checkpoint in ``folder``.

    Args:
        step: the expected step; ``None`` for any.

    Raises:
        CheckpointError: it is missing or damaged, of a later format, or of another step.
    """
    path = folder / STATE_FILE
    try:
        values = read_json(regular_inside(folder, STATE_FILE))
        if values.get("format_version", 0) > FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format_version={values['format_version']}, this unipool_dist reads up to "
                f"{FORMAT_VERSION}; install the version that wrote it: {values.get('versions', {}).get('unipool-dist')}"
            )
        progress = Progress.model_validate(values)
    except (OSError, ValueError, AttributeError, TypeError, ValidationError) as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
    if step is not None and progress.step != step:
        raise CheckpointError(f"{path} is that of step {progress.step}, not of step {step}; restore the file")
    return progress


def read_config(folder: Path) -> Config:
    """Read the resolved configuration in a checkpoint.

    Raises:
        CheckpointError: it cannot be read by this version, or has a field that this version does not know.
    """
    try:
        return load_written(regular_inside(folder, CONFIG_FILE))
    except (ConfigError, OutsideError) as error:
        raise CheckpointError(f"the checkpoint's configuration cannot be used: {error}") from None


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
