"""An entry of ``stages`` as it is written in a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict


class StageChange(BaseModel):
    """The first step of a stage and, by full name, the fields that have another value from there on.

    Its values are checked where it is applied to the configuration (:mod:`unipool_dist.config.staging`).
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    from_step: int

    @property
    def fields(self) -> Mapping[str, Any]:
        """The values by full name: ``train.global_batch_size``."""
        return MappingProxyType(self.model_extra or {})
