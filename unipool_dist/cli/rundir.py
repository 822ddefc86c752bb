"""The run directory: who may write into it, and what is written at the start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.config import Config, dump_config
from unipool_dist.errors import ConfigError
from unipool_dist.probe.record import PROBE_DIR
from unipool_dist.resilience.heartbeat import HEARTBEAT_FILE
from unipool_dist.resilience.watchdog_files import WATCHDOG

CONFIG_FILE = "config.yaml"
_OF_A_RUN = (
    CONFIG_FILE,
    "metrics.jsonl",
    "expert_usage.jsonl",
    "data_summary.json",
    HEARTBEAT_FILE,
    "loss_curve.png",
    "expert_usage.png",
)


def check_run_dir(path: Path, *, overwrite: bool, resume: bool) -> None:
    """Refuse a directory that holds another run.

    Raises:
        ConfigError: it does and neither ``overwrite`` nor ``resume`` is set, or it cannot be written.
    """
    holds_run = (path / CONFIG_FILE).exists() or CheckpointDirectory(path).steps()
    if holds_run and not (overwrite or resume):
        raise ConfigError(
            f"run.dir={path} already holds a run; pass --resume to go on with it, choose another directory, or pass "
            f"--overwrite to replace it"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run.dir={path} cannot be made: {error}; choose a directory that can be written") from None


def begin_run_dir(path: Path, config: Config, unigram_entropy: Mapping[str, float], *, same_run: bool = False) -> None:
    """Empty ``path`` of an earlier run's files; then write the resolved configuration.

    Checkpoints go first: if this is interrupted, no ``--resume`` goes on with the run that was to be replaced.

    Args:
        same_run: it is the run itself that has not come to a checkpoint yet: what its watchdog has found stays.

    Raises:
        OSError: something cannot be deleted.
    """
    CheckpointDirectory(path).delete_all()
    for name in _OF_A_RUN:
        (path / name).unlink(missing_ok=True)
    for folder in ("tensorboard", PROBE_DIR, *(() if same_run else (WATCHDOG,))):
        shutil.rmtree(path / folder, ignore_errors=True)
    continue_run_dir(path, config, unigram_entropy)


def continue_run_dir(path: Path, config: Config, unigram_entropy: Mapping[str, float]) -> None:
    """Write the resolved configuration, which may not be the one the run began with."""
    (path / "data_summary.json").write_text(json.dumps({"unigram_entropy": dict(unigram_entropy)}, indent=1) + "\n")
    dump_config(config, path / CONFIG_FILE)
