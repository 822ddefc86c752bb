"""Whether a configuration was written by this program: ``config.yaml`` in run directories, checkpoints and exports."""

from __future__ import annotations

from pathlib import Path

import yaml

from unipool_dist.base.reading import read_text
from unipool_dist.base.yaml_text import MAX_YAML_BYTES, parse_yaml

_SECTIONS = {"model", "pool", "parallel", "data", "optimizer", "train", "log", "run"}
"""Of every version so far."""


def is_written_config(path: Path) -> bool:
    """Whether ``path`` has every section and is, to the letter, as :func:`~unipool_dist.config.load.dump_config` writes
    it: without comments, in one form. Its fields may be those of another version."""
    try:
        text = read_text(path, max_bytes=MAX_YAML_BYTES)
        values = parse_yaml(text)
        return (
            isinstance(values, dict)
            and values.keys() >= _SECTIONS
            and all(isinstance(section, dict) for section in values.values())
            and yaml.safe_dump(values, sort_keys=False) == text
        )
    except (OSError, ValueError):
        return False
