"""The key of a run: what its processes prove to each other with that they are of it. Others than their user cannot read
it: it is in their environment, and nowhere else."""

from __future__ import annotations

import secrets

KEY = "UNIPOOL_DIST_KEY"
"""The variable that has it, the same for all processes of a run."""


def new_key() -> str:
    """Return one that nobody can guess."""
    return secrets.token_hex(32)
