"""What a run is called in its figures."""

from __future__ import annotations

import re
from pathlib import Path

_SEED = re.compile(r"seed-\d+")


def name_of(run_dir: Path) -> str:
    """The name of the run's directory; of an experiment's run, all of which are ``seed-N``, ``VARIANT/seed-N``."""
    path = run_dir.resolve()
    return f"{path.parent.name}/{path.name}" if _SEED.fullmatch(path.name) else path.name
