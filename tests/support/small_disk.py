"""A file system that is full soon, made and seen by this process and those that it starts, and by nobody else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


@contextmanager
def small_disk(num_bytes: int) -> Iterator[Path]:
    """A tmpfs of so many bytes, in the namespace of a process that lives as long; skips where mounting is refused."""
    with TemporaryDirectory() as folder:
        yield from _mounted(f"mount -t tmpfs -o size={num_bytes},mode=777 tmpfs {folder}", folder)


def _mounted(mount: str, folder: str) -> Iterator[Path]:
    script = f"{mount} && echo mounted && exec sleep 1000"
    refused = []
    for command in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        try:
            holder = subprocess.Popen(
                [*command, "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        except OSError as error:
            refused.append(f"{' '.join(command)}: {error}")
            continue
        with holder:
            try:
                assert holder.stdout is not None and holder.stderr is not None
                if holder.stdout.readline() == "mounted\n":
                    yield Path(f"/proc/{holder.pid}/root{folder}")  # how others see what that process has mounted
                    return
                refused.append(f"{' '.join(command)}: {holder.stderr.read().strip()}")
            finally:
                holder.kill()
    pytest.skip("no tmpfs can be mounted: " + "; ".join(refused))
