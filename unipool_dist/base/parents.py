"""Processes that do not outlive the process that started them, even if that is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with(parent: int | None) -> bool:
    """Have the kernel kill this process when the one that started it dies; return whether it still lives.

    The kernel takes the end of the *thread* that started a process for the parent's. On another system than Linux this
    only looks whether it lives.

    Args:
        parent: its process id; ``None`` if this process does not know it, which then counts as alive.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    return parent is None or os.getppid() == parent
