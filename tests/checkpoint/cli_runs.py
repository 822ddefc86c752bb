"""Runs of the command line that are stopped and resumed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.running import one_thread, train_records
from tests.support.runs import train_command

# Large batches, so that a step takes long enough to stop between two of them.
COMMON = (
    "train.global_batch_size=16",
    "optimizer.epsilon=1e-5",
    "log.interval=1",
    "log.tensorboard=false",
    "checkpoint.interval=0",
)
COLUMNS = ("loss", "lr", "grad_norm", "aux_loss")


def command_of(corpus: Path, run_dir: Path, *arguments: str, nproc: int = 1) -> list[str]:
    """``unipool-dist train``, with what all these runs have in common."""
    return train_command(corpus, run_dir, nproc, *COMMON, *arguments)


def complete(command: list[str], status: int = 0) -> tuple[str, str]:
    """Run to the end; returns what was said on stdout and on stderr."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=one_thread())
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout, done.stderr


def columns(run_dir: Path) -> dict[str, list[float]]:
    """What must not depend on how often a run was stopped, and on what layouts it ran; each step is there once."""
    records = train_records(run_dir)
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    return {column: [record[column] for record in records] for column in COLUMNS}


def files(folder: Path) -> dict[str, bytes]:
    """Everything in ``folder`` but the lock, which says who looked last."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != ".lock"}
