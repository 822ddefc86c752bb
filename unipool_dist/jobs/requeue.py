"""Requeue a job from its own batch script, however long SLURM takes to answer."""

from __future__ import annotations

import time
from collections.abc import Callable

from unipool_dist.jobs import slurm

RETRY_FOR_S = 600.0
"""A controller that is being restarted, or is overloaded, answers again within this time."""
_PAUSES_S = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Pauses between questions; the last one from then on."""
_END_PATIENCE_S = 120
"""Time for SLURM to end this script after the requeue; it would otherwise kill it only after KillWait."""


def requeue(job_id: str, restart: int, *, is_ending: Callable[[], bool], say: Callable[[str], None]) -> bool:
    """Requeue the job and wait until SLURM ends this script for it; ask again while SLURM cannot.

    Returns whether the job is out of this script's hands: by this, or because SLURM had taken it anyway.

    Args:
        restart: how often the job had been restarted when this script began.
        is_ending: whether SLURM has asked this script to end.
        say: called with each line that the user should see.
    """
    until = time.monotonic() + RETRY_FOR_S
    pauses = iter(_PAUSES_S)
    told = False
    while True:
        try:
            # Asked anew each time: a requeue may have come through though its answer was lost; and a node that was cut
            # off may come back after SLURM has long restarted the job elsewhere.
            if not _is_ours(job_id, restart):
                say("SLURM has already taken this job from here: nothing more to do")
                return True
            slurm.requeue(job_id)
            _wait(time.monotonic() + _END_PATIENCE_S, is_ending)
            return True
        except slurm.SlurmError as error:
            if not told:
                say(f"it could not be requeued: {error}; trying again for {RETRY_FOR_S / 60:.0f} minutes")
                told = True
            if time.monotonic() > until:
                say(f"it could still not be requeued: {error}")
                return False
        if _wait(time.monotonic() + next(pauses, _PAUSES_S[-1]), is_ending):
            return True


def _is_ours(job_id: str, restart: int) -> bool:
    """Return whether the job still runs in the start that this script belongs to."""
    fields = slurm.show_job(job_id)
    if fields is None or int(fields.get("Restarts", 0)) != restart:
        return False
    return fields.get("JobState") in ("RUNNING", "SIGNALING")  # the second while a signal is under way to the tasks


def _wait(until: float, is_ending: Callable[[], bool]) -> bool:
    """Wait until ``until``; return whether SLURM asked this script to end before."""
    while not is_ending() and time.monotonic() < until:
        time.sleep(0.1)
    return is_ending()
