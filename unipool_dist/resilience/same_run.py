"""The processes of this machine that belong to the same run: no others are inspected, or signalled."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import psutil

from unipool_dist.base.credentials import KEY
from unipool_dist.comm.environment import STORE

_OF_RUN = (
    KEY,
    STORE,
    "MASTER_ADDR",
    "MASTER_PORT",
    "WORLD_SIZE",
    "TORCHELASTIC_RUN_ID",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
)
"""Variables that a launcher sets alike for all processes of a run."""
_RANKS = ("RANK", "SLURM_PROCID")


def find_rank(pid: int, created: float, rank: int) -> psutil.Process | None:
    """Return the process ``pid`` if it is rank ``rank`` of this run, judging by the environment from its launcher.

    Args:
        created: when it was started, seconds since 1970: another process may have got its number.
    """
    try:
        found = psutil.Process(pid)
        theirs, own = found.environ(), psutil.Process().environ()
        same_time = abs(found.create_time() - created) < 1
        same_user = found.uids().real == os.getuid()
    except (psutil.Error, OSError):
        return None
    same_run = any(name in own for name in _OF_RUN) and all(theirs.get(name) == own.get(name) for name in _OF_RUN)
    number = next((theirs[name] for name in _RANKS if name in theirs), None)
    return found if same_time and same_user and same_run and number == str(rank) else None


def kill_rank(pid: int, created: float, rank: int) -> None:
    """End it by SIGKILL if it is that rank of this run; do nothing if it is gone, or any other process."""
    with suppress(OSError):
        handle = os.pidfd_open(pid)  # from here on the number cannot come to mean another process
        try:
            if find_rank(pid, created, rank) is not None:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)
