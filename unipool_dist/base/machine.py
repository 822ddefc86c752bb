"""What this machine has for the processes on it (memory, GPUs, cores, packages), and one training's share of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

_NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
_OF_A_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID")
"""Variables that would make a training believe it is one process of what started this command."""


def gpus_here(variables: Mapping[str, str]) -> list[str]:
    """Return the names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them; asks no driver."""
    visible = variables.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    return [str(index) for index, _ in enumerate(_NVIDIA_GPUS.iterdir())] if _NVIDIA_GPUS.is_dir() else []


def cores_here() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def current_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a checkpoint may depend on; imports none of them."""
    packages = ("unipool-dist", "torch", "megatron-core", "deepspeed", "numpy")
    return {"python": platform.python_version()} | {name: _installed(name) for name in packages}


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # this package itself, run from a source tree
        return "not installed"


def machine_memory() -> int:
    """Return the bytes of memory and swap, or the limit of this process's control group (container or job) if lower."""
    whole = psutil.virtual_memory().total + psutil.swap_memory().total
    return min([whole, *_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def _limits(own: Path, root: Path) -> list[int]:
    """Return the limits of the control groups that the file ``own`` names, and of their parents."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # no Linux
        return []
    limits = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            folder, file = root, "memory.max"
        elif "memory" in controllers.split(","):
            folder, file = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = Path(name.lstrip("/"))
        for path in (group, *group.parents):
            try:
                limits.append(int((folder / path / file).read_text()))
            except (OSError, ValueError):  # not mounted here, or "max"
                continue
    return limits


def share_of_machine(
    variables: Mapping[str, str], *, place: int, num_at_once: int, num_processes: int, gpus: Sequence[str], cores: int
) -> dict[str, str]:
    """Return the environment of a training of ``num_processes``, the ``place``-th of ``num_at_once``.

    GPUs are dealt out in turn, so trainings share them only if there are more processes than GPUs. OMP_NUM_THREADS
    stays as it is where it is set.
    """
    share = {name: value for name, value in variables.items() if name not in _OF_A_LAUNCHER}
    share.setdefault("OMP_NUM_THREADS", str(max(1, cores // (num_at_once * num_processes))))
    if gpus:
        mine = (place * num_processes + i for i in range(min(num_processes, len(gpus))))
        share["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[index % len(gpus)] for index in mine)
    return share
