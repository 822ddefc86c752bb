"""Duration of an operation: warmed up, started together, repeated, the median taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(
    operation: Callable[[], object],
    device: torch.device,
    *,
    repetitions: int,
    batch: int = 1,
    together: Callable[[], object] | None = None,
) -> float:
    """Return the seconds of one ``operation``: the median of ``repetitions`` runs of ``batch``, after one warm-up.

    ``together`` is called before every run, to let all ranks begin at the same moment.
    """
    times = []
    for _ in range(1 + repetitions):
        if together is not None:
            together()
        synchronize(device)
        started = time.perf_counter()
        for _ in range(batch):
            operation()
        synchronize(device)
        times.append((time.perf_counter() - started) / batch)
    return median(times[1:])
