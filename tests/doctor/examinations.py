"""Running ``unipool-dist doctor`` in processes, and taking its JSON apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.running import one_thread
from tests.support.workers import free_port

COMMAND = [sys.executable, "-m", "unipool_dist", "doctor", "--json", "--disk-mb=8"]


@dataclass
class Verdict:
    """What an examination printed, and the exit status of every process started for it."""

    statuses: list[int]
    document: dict[str, Any]
    stderr: str

    def check(self, name: str) -> dict[str, Any]:
        found = [check for check in self.document["checks"] if check["name"] == name]
        assert len(found) == 1, (name, [check["name"] for check in self.document["checks"]], self.stderr)
        return found[0]

    def status(self, name: str) -> str:
        return str(self.check(name)["status"])


def examine(*arguments: str, cwd: Path, timeout_s: float = 240) -> Verdict:
    """The command as a user calls it."""
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=timeout_s, env=one_thread()
    )
    return Verdict([done.returncode], json.loads(done.stdout), done.stderr)


def examine_as_ranks(
    script: str, ranks: list[int], world_size: int, *arguments: str, cwd: Path, timeout_s: float = 240
) -> Verdict:
    """Each of ``ranks`` as SLURM would start it, after ``script``, which may change what the rank is or sees."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world_size)}
    processes = []
    for rank in ranks:
        environment = one_thread() | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        program = ["-c", f"{script}\nfrom unipool_dist.cli import main\nmain()", *COMMAND[3:], *arguments]
        processes.append(
            subprocess.Popen(
                [sys.executable, *program],
                cwd=cwd,
                env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        outputs = [process.communicate(timeout=timeout_s) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(not out for (out, _), rank in zip(outputs, ranks, strict=True) if rank != 0), "only rank 0 prints"
    document = json.loads(outputs[0][0]) if 0 in ranks else {}
    return Verdict([process.returncode for process in processes], document, "".join(err for _, err in outputs))
