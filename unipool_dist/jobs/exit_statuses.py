"""Exit statuses of srun, as a shell gives them, in words."""

from __future__ import annotations

import signal

from unipool_dist.resilience.exit_codes import RESUME


def signal_of(status: int) -> signal.Signals | None:
    """Return the signal that ``status`` stands for, if any."""
    try:
        return signal.Signals(status - 128)
    except ValueError:
        return None


def meaning(status: int) -> str:
    """Describe ``status`` in words."""
    if status == 0:
        return "success"
    if status == RESUME:
        return "start me again"
    number = signal_of(status)
    return "an error" if number is None else f"killed by {number.name}"
