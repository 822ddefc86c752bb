"""A dense model through the command line: trained on two stages, resumed on one, exported, imported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from tests.checkpoint.cli_runs import columns, command_of, complete
from tests.checkpoint.command_line import document, succeed
from unipool_dist.observe.jsonlines import read_json_lines

DENSE = ("pool.router=none", "pool.num_experts=1", "pool.balance.loss=none")
STEPS = ("train.steps=6", "checkpoint.interval=4")


def test_a_dense_run_from_start_to_import(tiny_corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said, _ = complete(command_of(tiny_corpus, run, *STEPS, "parallel.pp=2", *DENSE, nproc=2))
    assert "4 layers, hidden 32, dense, fp32\n" in said
    assert "2 processes on cpu; every rank holds the FFNs of its layers\n" in said
    assert "loss_curve.png" in said and "expert usage" not in said
    assert not (run / "expert_usage.png").exists() and read_json_lines(run / "expert_usage.jsonl") == []

    two_stages = columns(run)
    assert two_stages["aux_loss"] == [0.0] * 6
    said, _ = complete(command_of(tiny_corpus, run, *STEPS, *DENSE, "--from", "4"))
    assert "resumed after step 4 of 6" in said
    for name, values in columns(run).items():
        np.testing.assert_allclose(values, two_stages[name], rtol=1e-4, err_msg=name)

    assert "dense FFN in each layer, hidden 48" in succeed("inspect", run)
    succeed("export", run, tmp_path / "export")
    names = load_file(tmp_path / "export" / "model.safetensors").keys()
    assert {name for name in names if name.startswith("experts.")} == {
        f"experts.{layer}.{kind}" for layer in range(4) for kind in ("gate_up", "down")
    }
    assert not any("router" in name for name in names)
    assert document("import", tmp_path / "export", tmp_path / "imported")["step"] == 0
    begin = command_of(tiny_corpus, tmp_path / "imported", *STEPS, "parallel.tp=2", *DENSE, "--resume", nproc=2)
    assert "resumed after step 0 of 6" in complete(begin)[0]
