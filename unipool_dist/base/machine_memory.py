"""How much memory the processes of this machine can have together."""

from __future__ import annotations

from pathlib import Path

import psutil


def machine_memory() -> int:
    """Bytes of memory and swap, or what the control group of this process, a container's or a job's, may use if that
    is less."""
    whole = psutil.virtual_memory().total + psutil.swap_memory().total
    return min([whole, *_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def _limits(own: Path, root: Path) -> list[int]:
    """The limits of the groups that the file ``own`` names, and of those they are in."""
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
