"""Read a configuration: its base files, the YAML file, ``section.field=value`` overrides, then types and ranges."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import BaseModel

from unipool_dist.base.names import path_text
from unipool_dist.base.printable import printable
from unipool_dist.base.project import user_path
from unipool_dist.base.user_code import is_user_code
from unipool_dist.base.writing import replace_text
from unipool_dist.base.yaml_text import read_yaml
from unipool_dist.config.faults import shown
from unipool_dist.config.fields import is_section
from unipool_dist.config.overrides import apply_field, apply_override
from unipool_dist.config.sections import Config
from unipool_dist.config.staging import refuse_hidden, with_stages_checked
from unipool_dist.config.validation import validated
from unipool_dist.errors import ConfigError

_MAX_BASES = 16


def load_config(
    path: str | Path | None, overrides: Iterable[str] = (), *, fields: Mapping[str, Any] = MappingProxyType({})
) -> Config:
    """Read ``path`` (``None``: all defaults), apply ``fields`` and ``overrides``, check every field on its own.

    So are the fields that ``stages`` change. A file may name another, relative to itself, in ``base``; fields that it
    leaves out are taken from there, one by one.

    Args:
        overrides: ``section.field=value``, as on the command line.
        fields: values by full name, as a file would have them.

    Raises:
        ConfigError: a file cannot be read, is not a mapping, or has unknown or ill-typed fields. All faulty fields are
            named at once, each with its value and what it may be.
    """
    values: dict[str, Any] = {} if path is None else _read_with_bases(user_path(path))
    overrides = list(overrides)
    for name, value in fields.items():
        apply_field(values, name, deepcopy(value))  # a later one may set something inside of it
    for override in overrides:
        apply_override(values, override)
    source = str(path) if path is not None else "the configuration"
    config = with_stages_checked(validated(values, source), source)
    refuse_hidden(config, [*fields, *(override.partition("=")[0] for override in overrides)])
    return config


def dump_config(config: Config, path: Path) -> None:
    """Write ``config`` to ``path`` as YAML that :func:`load_config` reads back to an equal configuration.

    A link of that name is replaced, not followed.
    """
    replace_text(path, config_text(config))


def named_code(config: Config) -> list[str]:
    """Return the names ``module:Class`` of the user's own code in ``config``."""
    return [text for text in _texts(config.model_dump(mode="json")) if is_user_code(text)]


def config_text(config: Config) -> str:
    """Return ``config`` as YAML, every field written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _read_with_bases(path: Path, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the values of ``path`` over those of its ``base``; ``above`` are the files that led here."""
    values = read_sections(path)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base={shown(base)} must be the path of another configuration, relative to this one")
    try:
        base_path = path.parent / path_text(base)
    except ValueError as error:
        raise ConfigError(f"{path}: base={shown(base)}: {error}") from None
    above = (*above, os.path.realpath(path))
    if os.path.realpath(base_path) in above:
        raise ConfigError(f"{path}: base={base} leads back to a file that this one is the base of; remove one of them")
    if len(above) > _MAX_BASES:
        raise ConfigError(f"{path}: base={base} is the {len(above)}th file in a row; put some of them into one")
    if not os.path.exists(base_path):
        raise ConfigError(
            f"{path}: base={base} is not there; give the path of another configuration, relative to {path}"
        )
    return _merged(_read_with_bases(base_path, above), values, Config)


def _merged(under: dict[str, Any], over: dict[str, Any], schema: type[BaseModel]) -> dict[str, Any]:
    """Merge sections field by field; any other value of ``over``, mappings of the user's included, replaces."""
    merged = {**under, **over}
    for name in under.keys() & over.keys():
        section = schema.model_fields[name].annotation if name in schema.model_fields else None
        if is_section(section) and isinstance(under[name], dict) and isinstance(over[name], dict):
            merged[name] = _merged(under[name], over[name], section)
    return merged


def read_sections(path: Path) -> dict[str, Any]:
    """Read the sections in ``path``, unchecked.

    Raises:
        ConfigError: it cannot be read, or is not a mapping.
    """
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(f"no configuration at {path}; the ones that come with the project are in configs/") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{printable(path)} cannot be read as YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must be a mapping of sections ({', '.join(Config.model_fields)})")
    return {name: {} if fields is None and name in Config.model_fields else fields for name, fields in values.items()}
