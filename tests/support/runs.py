"""Runs of the command line on a corpus small enough for tests."""

from __future__ import annotations

import random
import sys
from pathlib import Path

TINY_RUN = (
    "model.num_layers=4",
    "model.hidden_size=32",
    "model.ffn_hidden_size=48",
    "model.num_query_groups=2",
    "model.sequence_length=32",
    "model.init_std=0.05",
    "pool.num_experts=16",
    "train.global_batch_size=8",
    "train.micro_batch_size=2",
    "train.eval_sequences=6",
    "optimizer.warmup_steps=2",
    "optimizer.lr=0.003",
    "parallel.timeout_s=60",
)


def train_command(corpus: Path, run_dir: Path, nproc: int, *overrides: str) -> list[str]:
    """``unipool-dist train`` as a command, with every field that matters set by overrides.

    A single process needs no launcher, which would have to import torch too.
    """
    config = run_dir.parent / "empty.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text("{}\n")
    program = [sys.executable, "-m", "unipool_dist", "train", str(config)]
    program += ["--nproc", str(nproc)] if nproc > 1 else []
    return [*program, *TINY_RUN, f"data.path={corpus}", f"run.dir={run_dir}", *overrides]


def write_sources(folder: Path) -> dict[str, Path]:
    """Two domains of made-up text: sentences and sums."""
    words = [
        "the",
        "a",
        "quick",
        "slow",
        "brown",
        "red",
        "fox",
        "dog",
        "jumps",
        "over",
        "near",
        "lazy",
        "river",
        "stone",
    ]
    draw = random.Random(5)
    prose = "\n\n".join(" ".join(draw.choices(words, k=60)) + "." for _ in range(150))
    sums = "\n\n".join(" ".join(f"{a}+{b}={a + b}" for a, b in _pairs(draw)) for _ in range(150))
    paths = {"prose": folder / "prose.txt", "sums": folder / "sums.txt"}
    paths["prose"].write_text(prose)
    paths["sums"].write_text(sums)
    return paths


def _pairs(draw: random.Random) -> list[tuple[int, int]]:
    return [(draw.randrange(50), draw.randrange(50)) for _ in range(30)]
