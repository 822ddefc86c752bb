"""The share of a machine for one of several trainings: its own GPUs if there are enough, its share of cores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from unipool_dist.resilience.orphans import LAUNCHER_PID

_OF_A_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID")
"""Variables that would make a training believe it is one process of what started this command."""


def share_of_machine(
    variables: Mapping[str, str], *, place: int, num_at_once: int, num_processes: int, gpus: Sequence[str], cores: int
) -> dict[str, str]:
    """Return the environment of a training of ``num_processes``, the ``place``-th of ``num_at_once``.

    GPUs are dealt out in turn, so trainings share them only if there are more processes than GPUs. OMP_NUM_THREADS
    stays as it is where it is set.
    """
    share = {name: value for name, value in variables.items() if name not in _OF_A_LAUNCHER}
    share.setdefault("OMP_NUM_THREADS", str(max(1, cores // (num_at_once * num_processes))))
    share[LAUNCHER_PID] = str(os.getpid())
    if gpus:
        mine = (place * num_processes + i for i in range(min(num_processes, len(gpus))))
        share["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[index % len(gpus)] for index in mine)
    return share
