"""The name of a run in its figures."""

from __future__ import annotations

import re
from pathlib import Path

_SEED = re.compile(r"seed-\d+")


def name_of(run_dir: Path) -> str:
    """Return the name of the run's directory; for an experiment's run, ``VARIANT/seed-N``."""
    path = run_dir.resolve()
    return f"{path.parent.name}/{path.name}" if _SEED.fullmatch(path.name) else path.name
