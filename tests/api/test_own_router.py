"""A router of a user's own, in one file: trained from the command line, resumed bit for bit, exported."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.checkpoint.command_line import fail, succeed
from tests.support.runs import train_command
from unipool_dist.observe.jsonlines import read_json_lines

EXAMPLES = Path(__file__).parents[2] / "examples"
ROUTER = "own_router:CosineRouter"


def test_a_router_of_ones_own_is_trained_resumed_and_exported(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    overrides = (f"pool.router={ROUTER}", "pool.balance.loss=own_router:SquareLoss", "checkpoint.interval=2")
    variables = {**os.environ, "UNIPOOL_DIST_USER_CODE": str(EXAMPLES)}

    def train(*more: str) -> list[float]:
        command = train_command(tiny_corpus, run_dir, 1, *overrides, "train.steps=4", "log.tensorboard=false")
        done = subprocess.run(
            [*command, *more], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return [record["loss"] for record in read_json_lines(run_dir / "metrics.jsonl") if "loss" in record]

    losses = train()
    assert len(losses) == 4
    assert train("--from", "2") == losses, "the same numbers after a resume"
    monkeypatch.setenv("UNIPOOL_DIST_USER_CODE", str(EXAMPLES))
    assert f"--trust {ROUTER}" in fail("export", run_dir, tmp_path / "refused")
    succeed("export", run_dir, tmp_path / "exported", "--trust", ROUTER)
    tensors = load_file(tmp_path / "exported" / "model.safetensors")
    routers = {name: tensor.shape for name, tensor in tensors.items() if ".router." in name}
    assert routers == {f"layers.{layer}.router.weight": (16, 32) for layer in range(4)}
