"""Training goes on from what the commands have written as it would have from the original."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoint.command_line import same_bits, step_folder, succeed, tensors_of
from tests.support.runs import train_command

COMPARED = ("loss", "aux_loss", "grad_norm", "lr", "tokens", "validation", "bits_per_byte", "ownership")
"""All that is not speed or memory."""
STILL = (
    "train.steps=2",
    "optimizer.lr=1e-30",
    "optimizer.min_lr=0",
    "optimizer.decay=constant",
    "checkpoint.interval=1",
    "checkpoint.keep_last=0",
)
"""Two steps so small that they change no weight."""


@pytest.fixture(scope="module")
def continued(trained: Path, tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that were resumed, each on one process: ``original``, ``resharded`` and ``imported``."""
    top = tmp_path_factory.mktemp("continued")
    shutil.copytree(trained, top / "original")
    shutil.rmtree(step_folder(top / "original", 4))
    succeed("reshard", trained, top / "resharded", "--step", 2, "--files", 3)
    succeed("export", trained, top / "export")
    succeed("import", top / "export", top / "imported")
    running = []
    for name, overrides in (("original", ("train.steps=4",)), ("resharded", ("train.steps=4",)), ("imported", STILL)):
        command = train_command(tiny_corpus, top / name, 1, *overrides, "log.tensorboard=false", "--resume")
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    outputs = [process.communicate(timeout=600)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], outputs
    return top


def metrics(run_dir: Path, first_step: int) -> list[dict[str, Any]]:
    """The records of steps from ``first_step`` on, without those of checkpoints and what a computer's speed decides."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: record[key] for key in ("step", *COMPARED) if key in record}
        for record in records
        if record["step"] >= first_step and "checkpoint" not in record
    ]


def test_a_resharded_run_goes_on_as_the_original(continued: Path, tmp_path: Path) -> None:
    expected = metrics(continued / "original", 3)
    assert [record["step"] for record in expected] == [3, 4, 4]
    assert {"loss", "grad_norm"} <= expected[0].keys() and "validation" in expected[-1]
    assert metrics(continued / "resharded", 0) == expected
    original = tensors_of(step_folder(continued / "original", 4), tmp_path)
    assert same_bits(tensors_of(step_folder(continued / "resharded", 4), tmp_path), original)


def test_an_imported_run_has_the_weights_of_the_exported_one(continued: Path, trained: Path, tmp_path: Path) -> None:
    source = metrics(trained, 1)
    *steps, validation = metrics(continued / "imported", 0)
    assert [record["step"] for record in steps] == [1, 2]
    for domain, loss in source[-1]["validation"].items():
        assert validation["validation"][domain] == pytest.approx(loss, abs=1e-5)
        assert abs(loss - source[0]["loss"]) > 0.1, "a run that begins anew would be seen to"
    assert steps[0]["loss"] < source[0]["loss"] - 0.1

    exported = tensors_of(step_folder(trained, 4), tmp_path)
    after = tensors_of(step_folder(continued / "imported", 2), tmp_path)
    masters = {name for name in exported if name.startswith("master/")}
    assert same_bits({name: after[name] for name in masters}, {name: exported[name] for name in masters})


def test_an_imported_run_begins_without_moments_at_the_start_of_the_schedule(continued: Path, tmp_path: Path) -> None:
    run_dir = continued / "imported"
    first, second, *_ = metrics(run_dir, 0)
    assert (first["lr"], second["lr"]) == pytest.approx((5e-31, 1e-30)), "warm-up of two steps"
    moments = [
        value for name, value in tensors_of(step_folder(run_dir, 1), tmp_path).items() if name.startswith("exp_avg/")
    ]
    norm = torch.stack([value.double().square().sum() for value in moments]).sum().sqrt()
    clipped = min(first["grad_norm"], 1.0)
    assert float(norm) == pytest.approx(0.1 * clipped, rel=1e-4), "(1 - beta1) times the gradient, and nothing before"
    state = json.loads((step_folder(run_dir, 1) / "state.json").read_text())
    assert (state["step"], state["schedule_steps"], state["consumed_samples"]) == (1, 1, 8)
    assert state["optimizer_states"] and state["data"]["segments"] == [16]
