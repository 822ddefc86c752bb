"""Before launching, wait for a previous attempt of this job that is still running."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from unipool_dist.resilience.handover import Handover
from unipool_dist.run.lock import holder_of

PATIENCE_S = 1800.0
"""Time for a step and a save of the largest models, and for the watchdog of a start cut off from the network."""
_LOOK_EVERY_S = 1.0


def wait_for_run(
    run_dir: Path, job_id: str, restart: int, *, is_ending: Callable[[], bool], say: Callable[[str], None]
) -> bool:
    """Return once nobody trains in ``run_dir``, or after ``PATIENCE_S``; ask a previous start of this job to end.

    The tasks would wait too, but not for long: to their watchdog they would look stuck.

    Returns whether there was anything to wait for.

    Args:
        is_ending: whether SLURM has asked this script to end: then there is no point in waiting.
        say: called with each line that the user should see.
    """
    holder = holder_of(run_dir)
    if holder is None:
        return False
    handover, until = Handover(run_dir, job_id, restart), time.monotonic() + PATIENCE_S
    say(
        f"the run is still held by {holder}: a former start of this job is asked to save and end; waiting for it for "
        f"{PATIENCE_S / 60:.0f} minutes at most"
    )
    while holder_of(run_dir) is not None and time.monotonic() < until and not is_ending():
        handover.ask()
        time.sleep(_LOOK_EVERY_S)
    return True
