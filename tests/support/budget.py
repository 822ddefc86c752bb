"""CPU seconds that a test may take, by its kind: of this process, of programs that have ended, and of the workers.

CPU time, because it hardly depends on what else the machine does.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from pathlib import Path

BUDGETS_S = {"pure": 30, "ranks": 180, "program": 240, "namespace": 240, "slurm": 600}
_TICKS = os.sysconf("SC_CLK_TCK")


def budget_of(kinds: Iterable[str]) -> int:
    """That of the most expensive kind."""
    return max(BUDGETS_S[kind] for kind in kinds if kind in BUDGETS_S)


def cpu_s(workers: Iterable[int] = ()) -> float:
    """What has been used so far, by the processes ``workers`` too."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used) + sum(map(_of_process, workers))


def _of_process(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:  # gone, so it counts as ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS  # utime and stime
