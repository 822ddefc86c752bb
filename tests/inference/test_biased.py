"""A model whose routers have biases is the same wherever it goes: evaluated, probed, exported and imported."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.checkpoint.command_line import fail, succeed
from tests.support.runs import train_command
from tests.support.using import complete, validation_of_training, with_run
from tests.support.workers import Workers, free_port
from unipool_dist.inference.opened import OpenedRun
from unipool_dist.inference.validation import validation_batches, validation_losses
from unipool_dist.pool import client
from unipool_dist.pool.dispatch import Routing
from unipool_dist.probe.observation import Recorder
from unipool_dist.probe.routing import tapped

STEPS = 30
RUN = (
    "model.num_layers=2",
    "pool.router=sigmoid",
    "pool.balance.loss=none",
    "pool.balance.bias_rate=0.02",
    f"train.steps={STEPS}",
    f"train.eval_interval={STEPS}",
    "log.tensorboard=false",
)


@pytest.fixture(scope="module")
def biased(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose biases have grown so large that without them other experts would be chosen."""
    run_dir = tmp_path_factory.mktemp("biased") / "run"
    subprocess.run(train_command(tiny_corpus, run_dir, 1, *RUN), check=True, timeout=600)
    return run_dir


@pytest.fixture(scope="module")
def exported(biased: Path) -> Path:
    out = biased.parent / "export"
    succeed("export", biased, out)
    return out


def losses(run_dir: Path, *options: str) -> dict[str, float]:
    document = json.loads(complete("eval", run_dir, "--json", *options)[0])
    return {name: found["loss"] for name, found in document["domains"].items()}


def test_evaluation_gives_the_losses_of_training_on_any_layout(biased: Path) -> None:
    recorded = validation_of_training(biased)["validation"]
    assert losses(biased) == pytest.approx(recorded, rel=1e-6)
    assert losses(biased, "--nproc=2", "parallel.pp=2") == pytest.approx(recorded, rel=1e-5)


def test_an_imported_model_has_the_biases(biased: Path, exported: Path, tmp_path: Path) -> None:
    tensors = load_file(exported / "model.safetensors")
    biases = [tensors[f"layers.{layer}.router.bias"].numpy() for layer in range(2)]
    np.testing.assert_array_equal(biases[0], biases[1], err_msg="one pool, one bias")
    assert 0.1 < np.abs(biases[0]).max() <= 0.02 * STEPS * 1.001
    assert json.loads((exported / "export.json").read_text())["num_parameters"] == sum(
        value.numel() for name, value in tensors.items() if not name.endswith("router.bias")
    )
    succeed("import", exported, tmp_path / "run")
    said, notes = complete("eval", tmp_path / "run")
    assert said.splitlines()[0] == f"{tmp_path / 'run'}, as imported"
    assert "note: the model is an imported one" in notes and "not trained to the end" not in notes
    assert losses(tmp_path / "run") == pytest.approx(validation_of_training(biased)["validation"], rel=1e-6)


def test_an_export_without_them_is_refused(exported: Path, tmp_path: Path) -> None:
    text = (exported / "config.yaml").read_text()
    assert "bias_rate: 0.02" in text
    try:
        (exported / "config.yaml").write_text(text.replace("bias_rate: 0.02", "bias_rate: 0.0"))
        assert "layers.0.router.bias is not a parameter of the model" in fail("import", exported, tmp_path / "run")
    finally:
        (exported / "config.yaml").write_text(text)


def test_a_probe_counts_the_experts_that_are_used(workers: Workers, biased: Path) -> None:
    (found,) = workers.run(with_run, 1, biased, (), free_port(), _counts)
    assert found["seen"] == found["dispatched"] != found["without biases"]
    assert sum(found["seen"]) == 4 * 32 * 2, "every token in both layers"


def _counts(run: OpenedRun) -> dict[str, list[int]]:
    """Choices of each expert: as the probe sees them, as rows are dispatched, and as the scores alone would have it."""
    batch = validation_batches(run, 4)["prose"].rows(0, 4)
    recorder, route = Recorder(run), client.route
    dispatched, highest = torch.zeros(2, run.plan.pool.num_experts, dtype=torch.int64)

    def recorded(
        scores_TM: Tensor, top_k: int, position_M: Tensor, num_positions: int, bias_M: Tensor | None = None
    ) -> Routing:
        routing = route(scores_TM, top_k, position_M, num_positions, bias_M)
        dispatched.add_(routing.counts_M)
        return routing

    def on_scores(layer: int, scores_TM: Tensor) -> None:
        highest.add_(torch.bincount(scores_TM.argmax(dim=1), minlength=len(highest)))
        recorder.on_scores(layer, scores_TM)

    client.route = recorded
    try:
        with tapped(run, on_scores, range(run.plan.model.num_layers)):
            validation_losses(run, {"prose": batch}, callback=recorder)
    finally:
        client.route = route
    seen = recorder.collect(batch).counts_LE.sum(axis=0)
    return {"seen": seen.tolist(), "dispatched": dispatched.tolist(), "without biases": highest.tolist()}
