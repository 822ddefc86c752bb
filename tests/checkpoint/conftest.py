"""A run of the command line, trained once for all tests of what is done with its checkpoints."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.runs import train_command


@pytest.fixture(scope="session")
def trained(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of four steps on two processes, with checkpoints of steps 2 and 4. Not to be changed."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    overrides = ("checkpoint.interval=2", "train.steps=4", "log.tensorboard=false")
    subprocess.run(train_command(tiny_corpus, run_dir, 2, *overrides), check=True, timeout=600)
    return run_dir
