"""Runs in computed order: made longer and resumed on another layout, and with text that cannot be read."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np

from tests.support.runs import train_command
from unipool_dist.config import load_config
from unipool_dist.data import Corpus
from unipool_dist.data.sampling import blend_of, computed_dataset


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


def test_a_token_that_cannot_be_read_ends_the_run_at_the_step_that_needs_it(tiny_corpus: Path, tmp_path: Path) -> None:
    """Though the thread that reads has come upon it a step before."""
    path = Path(shutil.copytree(tiny_corpus, tmp_path / "corpus", ignore=shutil.ignore_patterns("cache")))
    corpus, bad = Corpus.open(path), 8 * 2 + 5  # of the third step
    seed = load_config(None, []).train.seed
    item = computed_dataset(corpus, sequence_length=32, num_samples=24, seed=seed)[bad]
    stream = path / f"{blend_of(corpus, None).place(bad)[0]}.train.bin"
    text = stream.read_bytes()
    place = text.index(item["tokens"].numpy().astype(np.uint16).tobytes())
    stream.write_bytes(text[: place + 20] + b"\xff\xff" + text[place + 22 :])
    command = train_command(path, tmp_path / "run", 1, "data.order=computed", "train.steps=4", "log.tensorboard=false")
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"training sample {bad} of corpus {path} has token 65535" in done.stderr
    assert list(losses(tmp_path / "run")) == [1, 2]
