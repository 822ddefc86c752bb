"""Exit statuses with a meaning of their own."""

from __future__ import annotations

RESUME = 75
"""The state is saved: start me again to go on. EX_TEMPFAIL of sysexits.h, which nothing else here ends with."""
