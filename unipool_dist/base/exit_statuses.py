"""Exit statuses of this program, and of srun as a shell gives them."""

from __future__ import annotations

import signal

RESUME = 75
"""Start the run again to continue: the state is saved, or the watchdog has ended a run that was stuck.

This is EX_TEMPFAIL of sysexits.h; nothing else here ends with it.
"""


def signal_of(status: int) -> signal.Signals | None:
    """Return the signal in ``status``, if it names one."""
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
