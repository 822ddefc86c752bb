"""Values as a file has them, turned into a configuration whose fields are each in range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from unipool_dist.config.faults import describe_faults
from unipool_dist.config.fields import branches, mapping_values
from unipool_dist.config.overrides import as_number
from unipool_dist.config.sections import Config
from unipool_dist.errors import ConfigError


def validated(values: Mapping[str, Any], source: str) -> Config:
    """Return the configuration of ``values``; ``source`` says in errors where they are from.

    Raises:
        ConfigError: fields are unknown or ill-typed. All are named at once, each with its value and what it may be.
    """
    try:
        return Config.model_validate(_numbers(values, Config))
    except ValidationError as error:
        raise ConfigError(describe_faults(error, source)) from None


def _numbers(values: Any, schema: Any) -> Any:
    """Turn text such as ``1e-3``, which YAML 1.1 does not read as a number, into one where a number is expected."""
    if isinstance(values, Mapping) and isinstance(schema, type) and issubclass(schema, BaseModel):
        fields = schema.model_fields
        return {k: _numbers(v, fields[k].annotation) if k in fields else v for k, v in values.items()}
    if isinstance(values, dict):
        return {k: _numbers(v, mapping_values(schema)) for k, v in values.items()}
    if isinstance(values, str) and float in branches(schema):
        return as_number(values)
    return values
