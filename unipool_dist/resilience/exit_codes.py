"""Exit statuses with a meaning of their own."""

from __future__ import annotations

RESUME = 75
"""Start the run again to continue: the state is saved, or the watchdog has ended a run that was stuck.

EX_TEMPFAIL of sysexits.h, which nothing else here ends with.
"""
