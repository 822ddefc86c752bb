"""The run directory: who may write into it, and what is written at the start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from unipool_dist.config import Config, dump_config
from unipool_dist.errors import ConfigError

CONFIG_FILE = "config.yaml"
_OF_A_RUN = (
    CONFIG_FILE,
    "metrics.jsonl",
    "expert_usage.jsonl",
    "data_summary.json",
    "loss_curve.png",
    "expert_usage.png",
)


def check_run_dir(path: Path, *, overwrite: bool) -> None:
    """Refuse a directory that holds another run.

    Raises:
        ConfigError: it does and ``overwrite`` is not set, or it cannot be written.
    """
    if (path / CONFIG_FILE).exists() and not overwrite:
        raise ConfigError(
            f"run.dir={path} already holds a run; choose another directory, or pass --overwrite to replace it"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run.dir={path} cannot be made: {error}; choose a directory that can be written") from None


def begin_run_dir(path: Path, config: Config, unigram_entropy: Mapping[str, float], *, overwrite: bool) -> None:
    """Empty ``path`` of an earlier run's files if ``overwrite``, then write the resolved configuration. Rank 0 only.

    Raises:
        ConfigError: as :func:`check_run_dir`.
    """
    check_run_dir(path, overwrite=overwrite)
    for name in _OF_A_RUN:
        (path / name).unlink(missing_ok=True)
    shutil.rmtree(path / "tensorboard", ignore_errors=True)
    (path / "data_summary.json").write_text(json.dumps({"unigram_entropy": dict(unigram_entropy)}, indent=1) + "\n")
    dump_config(config, path / CONFIG_FILE)
