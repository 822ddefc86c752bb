"""The settings of an examination."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unipool_dist.config import Config
from unipool_dist.doctor.disk_space import CheckpointNeed


@dataclass(frozen=True)
class Settings:
    """What to examine and for how long; the same on all ranks."""

    run_dir: Path
    config: Config | None = None
    """Resolved; ``None``: one group of all ranks is examined."""
    config_error: str = ""
    """Why a configuration that was given cannot be used."""
    need: CheckpointNeed | None = None
    timeout_s: float = 60.0
    """Of the rendezvous and of every collective."""
    time_limit_s: float = 120.0
    """After which no probe is begun."""
    disk_bytes: int = 64_000_000
    """That each node writes."""
