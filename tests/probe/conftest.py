"""Runs to be probed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.runs import train_command


@pytest.fixture(scope="session")
def layered_run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the ordinary MoE, four experts in each of two layers, hardly trained. Not to be changed."""
    run_dir = tmp_path_factory.mktemp("layered") / "run"
    overrides = (
        "model.num_layers=2",
        "pool.num_experts=4",
        "pool.layers_per_group=1",
        "pool.router=softmax",
        "train.steps=4",
        "log.tensorboard=false",
    )
    subprocess.run(train_command(tiny_corpus, run_dir, 1, *overrides), check=True, timeout=600)
    return run_dir
