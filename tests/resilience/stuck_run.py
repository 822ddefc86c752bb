"""``unipool-dist train`` in which one rank gets stuck: ``python -m tests.resilience.stuck_run KIND train CONFIG ...``.

With ``--nproc N`` as the first argument it is the launcher of N such processes.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Any

STUCK_RANK, STUCK_STEP = 1, 4
SLOW_STEP, SLOW_S, BUSY_S = 5, 0.8, 6.5


def sleep_in_python(*args: Any) -> None:
    """Waits for ever, where its stack can be seen."""
    while True:
        time.sleep(1000)  # the line that the summary names


def hold_the_interpreter() -> None:
    """Waits for ever in C, without letting any Python run."""
    ctypes.PyDLL(None).sleep(1000)


def spoil(kind: str) -> None:
    """Put the fault in its place, which every rank passes."""
    import torch
    import torch.distributed as dist

    from unipool_dist.resilience.stop import StopRequest
    from unipool_dist.run import session
    from unipool_dist.run.assembly import BatchSource
    from unipool_dist.run.lock import RunLock

    stuck = int(os.environ["RANK"]) == STUCK_RANK
    fetch, poll, release, opened = BatchSource.__call__, StopRequest.poll, RunLock.release, session.Corpora.open
    polls = 0

    # Where training asks for a batch: the thread that reads ahead may well be slow, or stuck, unseen.
    def slow_fetch(self: Any, consumed_samples: int, microbatch: int) -> Any:
        if consumed_samples == (SLOW_STEP - 1) * 8:
            time.sleep(SLOW_S)
        return fetch(self, consumed_samples, microbatch)

    def stuck_fetch(self: Any, consumed_samples: int, microbatch: int) -> Any:
        if stuck and consumed_samples == (STUCK_STEP - 1) * 8:
            sleep_in_python()
        return fetch(self, consumed_samples, microbatch)

    def other_poll(self: Any) -> Any:
        nonlocal polls
        polls += 1
        if stuck and polls == STUCK_STEP:
            dist.all_to_all_single(torch.empty(12), torch.ones(12), group=self._group)
        return poll(self)

    def stuck_release(self: Any) -> None:
        release(self)
        if stuck:
            hold_the_interpreter()

    def busy_open(*args: Any, **kwargs: Any) -> Any:
        until = time.monotonic() + (BUSY_S if stuck else 0.0)
        while time.monotonic() < until:
            pass
        return opened(*args, **kwargs)

    if kind == "slow":
        BatchSource.__call__, session.Corpora.open = slow_fetch, busy_open  # type: ignore[method-assign]
    elif kind == "python":
        BatchSource.__call__ = stuck_fetch  # type: ignore[method-assign]
    elif kind == "collective":
        StopRequest.poll = other_poll  # type: ignore[method-assign]
    elif kind == "end":
        RunLock.release = stuck_release  # type: ignore[method-assign]


if __name__ == "__main__":
    if sys.argv[1] == "--nproc":
        from unipool_dist.run.launch import launch_local

        launch_local(sys.argv[3:], int(sys.argv[2]), program=("-m", "tests.resilience.stuck_run"))
    else:
        from unipool_dist.cli import main

        spoil(sys.argv.pop(1))
        main()
