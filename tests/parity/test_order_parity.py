"""A run with the computed order, made longer and resumed on another layout, is the run that was long from the start."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np

from tests.support.runs import train_command


def losses(run_dir: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record["loss"] for record in records if "loss" in record}


def test_a_run_made_longer_equals_one_that_was_longer(tiny_corpus: Path, tmp_path: Path) -> None:
    def train(run: str, nproc: int, *arguments: str) -> None:
        fixed = ("data.order=computed", "optimizer.decay=constant", "optimizer.epsilon=1e-5", "log.tensorboard=false")
        command = train_command(tiny_corpus, tmp_path / run, nproc, *fixed, *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    train("whole", 1, "train.steps=6")
    train("grown", 2, "parallel.dp=2", "train.steps=3")
    train("grown", 2, "parallel.pp=2", "train.steps=6", "--resume")
    whole, grown = losses(tmp_path / "whole"), losses(tmp_path / "grown")
    assert list(whole) == list(grown) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(list(grown.values()), list(whole.values()), rtol=1e-4)
    assert not list((tmp_path / "grown").glob("cache"))
    state = json.loads(next((tmp_path / "grown").glob("checkpoints/*6/state.json")).read_text())
    assert len(state["data"]["segments"]) == 1
