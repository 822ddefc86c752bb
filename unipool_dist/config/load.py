"""Reading a configuration: its base files, the YAML file, ``section.field=value`` overrides, then types and ranges."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from unipool_dist.base.names import path_text
from unipool_dist.base.printable import printable
from unipool_dist.base.yaml_text import parse_yaml, read_yaml
from unipool_dist.config.fields import allowed, fields_of, is_section, mapping_values
from unipool_dist.config.sections import Config
from unipool_dist.errors import ConfigError

_MAX_BASES = 16


def load_config(path: str | Path | None, overrides: Iterable[str] = ()) -> Config:
    """Read ``path`` (``None``: all defaults), apply ``overrides``, check every field on its own.

    A file may name another, relative to itself, in ``base``: what it leaves out is then as it is there, field by
    field.

    Raises:
        ConfigError: a file cannot be read, is not a mapping, or has unknown or ill-typed fields. All faulty fields are
            named at once, each with its value and what it may be.
    """
    values: dict[str, Any] = {} if path is None else _read_with_bases(Path(path))
    for override in overrides:
        _apply_override(values, override)
    try:
        return Config.model_validate(_numbers(values, Config))
    except ValidationError as error:
        raise ConfigError(_describe(error, str(path) if path is not None else "the configuration")) from None


def dump_config(config: Config, path: Path) -> None:
    """Write ``config`` to ``path`` as YAML that :func:`load_config` reads back to an equal configuration."""
    path.write_text(config_text(config))


def config_text(config: Config) -> str:
    """``config`` as YAML, every field written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_with_bases(path: Path, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values of ``path`` over those of its ``base``; ``above`` are the files that led here."""
    values = _read_sections(path)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(
            f"{path}: base={_shown(base)} must be the path of another configuration, relative to this one"
        )
    try:
        base_path = path.parent / path_text(base)
    except ValueError as error:
        raise ConfigError(f"{path}: base={_shown(base)}: {error}") from None
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
    """Sections are merged field by field; any other value of ``over``, mappings of the user's included, replaces."""
    merged = {**under, **over}
    for name in under.keys() & over.keys():
        section = schema.model_fields[name].annotation if name in schema.model_fields else None
        if is_section(section) and isinstance(under[name], dict) and isinstance(over[name], dict):
            merged[name] = _merged(under[name], over[name], section)
    return merged


def _read_sections(path: Path) -> dict[str, Any]:
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


def _apply_override(values: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    keys = name.split(".")
    if not separator or len(keys) < 2 or not all(keys):
        raise ConfigError(f"override {override!r} is not of the form section.field=value, e.g. train.steps=200")
    node = values
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {key} is not a section")
    try:
        node[keys[-1]] = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"override {override!r}: the value cannot be read as YAML: {error}") from None


def _numbers(values: Any, schema: Any) -> Any:
    """YAML 1.1 reads ``1e-3`` as text; turn such text into the number its writer meant where a number is expected."""
    if isinstance(values, dict) and isinstance(schema, type) and issubclass(schema, BaseModel):
        fields = schema.model_fields
        return {k: _numbers(v, fields[k].annotation) if k in fields else v for k, v in values.items()}
    if isinstance(values, dict):
        return {k: _numbers(v, float) for k, v in values.items()}
    if isinstance(values, str) and schema is not str and "float" in str(schema):
        try:
            return float(values)
        except ValueError:
            return values
    return values


def _describe(error: ValidationError, source: str) -> str:
    fields = dict(fields_of(Config))
    lines = dict.fromkeys(_describe_one(item, fields) for item in error.errors())
    return f"{source} is not a valid configuration:\n  " + "\n  ".join(lines)


def _describe_one(item: ErrorDetails, fields: dict[str, FieldInfo]) -> str:
    parts = [str(part) for part in item["loc"]]
    name = ".".join(parts)
    if item["type"] == "extra_forbidden":
        return f"{name}: no such field; {_suggestion(name, list(fields))}"
    if item["type"] == "invalid_key" or parts[-1] == "[key]":
        return f"{name.removesuffix('.[key]')}: names must be text, in quotes if they look like numbers"
    # The path of a faulty union ends with the branch that failed, once per branch; the field is the longest known
    # prefix. Only in a mapping does a part after it name something of the user's.
    known = max(size for size in range(len(parts) + 1) if size == 0 or ".".join(parts[:size]) in fields)
    field = fields[".".join(parts[:known])]
    values = mapping_values(field.annotation)
    if values is not None and known < len(parts):
        return f"{name}={_shown(item['input'])} must be {allowed(values)}"
    return f"{'.'.join(parts[:known])}={_shown(item['input'])} must be {allowed(field.annotation, field.metadata)}"


def _suggestion(name: str, known: list[str]) -> str:
    elsewhere = [field for field in known if field.rpartition(".")[2] == name.rpartition(".")[2]]
    close = elsewhere or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else "see docs/configuration.md for the fields"


def _shown(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
    return text if len(text) <= 60 else f"{text[:57]}..."
