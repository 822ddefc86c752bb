"""The key of a run, by which its processes prove to each other that they belong to it.

It is kept only in their environment, which no other user can read.
"""

from __future__ import annotations

import secrets

KEY = "UNIPOOL_DIST_KEY"
"""The variable that has it, the same for all processes of a run."""


def new_key() -> str:
    """Return a key that nobody can guess."""
    return secrets.token_hex(32)
