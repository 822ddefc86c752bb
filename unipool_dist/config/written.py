"""Configurations that this program wrote out in full: ``config.yaml`` in run directories, checkpoints and exports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import BaseModel

from unipool_dist.base.printable import listed, printable, short
from unipool_dist.base.reading import read_text
from unipool_dist.base.yaml_text import MAX_YAML_BYTES, parse_yaml
from unipool_dist.config.faults import shown
from unipool_dist.config.fields import is_section
from unipool_dist.config.load import load_config, read_sections
from unipool_dist.config.roles import role_of, settings_of
from unipool_dist.config.sections import Config
from unipool_dist.errors import ConfigError

_SECTIONS = {"model", "pool", "parallel", "data", "optimizer", "train", "log", "run"}
"""Sections of every version so far."""
_NO_SECTIONS = {"stages"}
ADDED: Mapping[str, Any] = MappingProxyType(
    {
        "model.family": "llama",
        "pool.normalize_gates": False,
        "pool.balance.bias_rate": 0.0,
        "optimizer.router_lr_scale": 1.0,
        "optimizer.wsd_decay_steps": 10,
        "optimizer.wsd_decay": "linear",
        "data.order": "indexed",
        "stages": [],
        "data.reset_at_documents": False,
    }
)
"""Fields that some checkpoints lack, with the value that the versions that wrote these worked with. A new field of a
role that must not change unnoticed is added here, whatever its default is; else checkpoints without it are refused."""


def is_written_config(path: Path) -> bool:
    """Return whether ``path`` is exactly what :func:`~unipool_dist.config.load.dump_config` writes.

    It has every section, no comments, and one form. Its fields may be those of another version.
    """
    try:
        text = read_text(path, max_bytes=MAX_YAML_BYTES)
        values = parse_yaml(text)
        return (
            isinstance(values, dict)
            and values.keys() >= _SECTIONS
            and all(isinstance(section, dict) for name, section in values.items() if name not in _NO_SECTIONS)
            and yaml.safe_dump(values, sort_keys=False) == text
        )
    except (OSError, ValueError):
        return False


def load_written(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration that this version or an earlier one wrote into a checkpoint.

    A field that it lacks has the value in :data:`ADDED`, what the version that wrote it did; one that is free to change
    has its default.

    Raises:
        ConfigError: it cannot be read, has fields that this version does not know, or lacks some that every version
            had; all are named, unknown ones with their values.
    """
    known, written = settings_of(Config), dict(_leaves(read_sections(path), Config))
    unknown = {name: value for name, value in written.items() if name not in known}
    if unknown:
        lines = [f"{short(name, 100)}: no such field in this version, has {shown(x)}" for name, x in unknown.items()]
        raise ConfigError(f"{printable(path)} was written by a later version; use that one:\n{listed(lines)}")
    absent = [name for name, field in known.items() if name not in written and not role_of(field).is_free_on_resume]
    lost = [name for name in absent if name not in ADDED]
    if lost:
        raise ConfigError(f"{printable(path)} lacks fields that every version writes; restore it:\n{listed(lost)}")
    return load_config(path, overrides, fields={name: ADDED[name] for name in absent})


def _leaves(values: Mapping[Any, Any], schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every field in ``values`` by its full name; what is not in ``schema`` counts as one."""
    for name, value in values.items():
        field = schema.model_fields.get(name)
        if field is not None and is_section(field.annotation) and isinstance(value, dict):
            yield from _leaves(value, field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
