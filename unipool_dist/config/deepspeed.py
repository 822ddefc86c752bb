"""The DeepSpeed JSON file that a run names: the part that is read, and what is refused."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unipool_dist.base.printable import short
from unipool_dist.base.project import user_path
from unipool_dist.base.reading import read_json
from unipool_dist.errors import ConfigError


class ZeroSettings(BaseModel):
    """The part of the section ``zero_optimization`` that is read; names and defaults are DeepSpeed's."""

    model_config = ConfigDict(frozen=True)

    stage: Literal[0, 1, 2, 3] = 0
    reduce_bucket_size: int = Field(500_000_000, gt=0)
    """In elements."""
    reduce_scatter: bool = True


def read_deepspeed_config(path: str | None) -> ZeroSettings:
    """Read the ``zero_optimization`` section of a DeepSpeed JSON file; ZeRO stage 1 if ``path`` is ``None``.

    Raises:
        ConfigError: the file cannot be read, has sections that would be ignored, or asks for a stage above 1.
    """
    if path is None:
        return ZeroSettings(stage=1)
    try:
        values = read_json(user_path(path))
        known = set(ZeroSettings.model_fields)
        ignored = sorted(set(values) - {"zero_optimization"})
        ignored += [f"zero_optimization.{key}" for key in sorted(set(values["zero_optimization"]) - known)]
        zero = ZeroSettings.model_validate(values["zero_optimization"])
    except FileNotFoundError:
        raise ConfigError(
            f"optimizer.deepspeed={path}: no such file; the ones that come with the project are in ds_configs/"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ConfigError(
            f"optimizer.deepspeed={path} is not a DeepSpeed configuration: {type(error).__name__}: {short(error)}"
        ) from None
    if ignored:
        raise ConfigError(
            f"optimizer.deepspeed={path}: remove {short(', '.join(ignored))}, which would have no effect: of "
            f"zero_optimization {', '.join(sorted(known))} are read; types, batch sizes, clipping and the optimizer "
            f"are set in the run's configuration"
        )
    if zero.stage > 1:
        raise ConfigError(
            f"optimizer.deepspeed={path}: zero_optimization.stage={zero.stage} is not legal here, use 1: stages 2 "
            f"and 3 communicate from inside backward, where replicas of an expert do not meet at the same moment "
            f"(ds_configs/README.md)"
        )
    return zero
