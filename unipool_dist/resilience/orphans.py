"""Processes that do not outlive the launcher that started them, even if it is killed."""

from __future__ import annotations

import os
import sys

from unipool_dist.base.console import say
from unipool_dist.base.parents import end_with

LAUNCHER_PID = "UNIPOOL_DIST_LAUNCHER_PID"
_OF_TORCHRUN = "TORCHELASTIC_RUN_ID"


def announce_launcher() -> None:
    """Announce this process as the launcher to the processes that it starts from now on.

    Its main thread has to start them: the kernel takes the end of the thread that started a process for the
    launcher's.
    """
    os.environ[LAUNCHER_PID] = str(os.getpid())


def end_with_launcher() -> None:
    """Have the kernel kill this process when its launcher dies; if it is dead already, end at once.

    torchrun does not announce itself; if it is dead already, its store is too, and waiting for that ends in time.
    Without a launcher (SLURM, a single process), or on another system than Linux, this does nothing.
    """
    launcher = os.environ.get(LAUNCHER_PID)
    if (launcher is None and _OF_TORCHRUN not in os.environ) or sys.platform != "linux":
        return
    if not end_with(None if launcher is None else int(launcher)):
        say(f"the launcher, process {launcher}, is gone: ending", err=True)
        os._exit(1)
