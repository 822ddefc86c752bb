"""A dense model becomes the beginning of one with pools: copies of its FFNs, with the noise that was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.checkpoint.command_line import call, fail, succeed
from tests.checkpoint.huggingface.importing import SMALL, assembled, logits_of_runs, masters
from tests.checkpoint.huggingface.models import STEP
from tests.support.workers import Workers, free_port

POOL = ("pool.router=norm", "pool.num_experts=10")
Trained = tuple[Path, dict[str, Tensor]]


def test_equal_experts_whose_scores_sum_to_1_compute_what_the_ffn_did(
    workers: Workers, model_runs: Trained, exports: Path, tmp_path: Path
) -> None:
    vanilla = ("pool.router=softmax", "pool.num_experts=4", "pool.top_k=2", "pool.layers_per_group=1")
    succeed("import", exports / "dense", tmp_path / "run", *SMALL, *vanilla, "pool.normalize_gates=true", "--upcycle")
    for layout in ((), ("parallel.pp=2",)):
        ranks = workers.run(logits_of_runs, 1 + len(layout), [tmp_path / "run"], layout, [free_port()])
        found = assembled([part for (parts,) in ranks for part in parts])
        assert float((found - model_runs[1]["dense"]).abs().max()) < 1e-5


@pytest.mark.parametrize("noise", [0.0, 0.25])
def test_the_experts_of_a_pool_are_the_ffns_of_its_layers(
    noise: float, model_runs: Trained, exports: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    succeed("import", exports / "dense", run, *POOL, "--upcycle", "--noise", noise)
    dense, begun = masters(model_runs[0] / "dense", STEP), masters(run, 0)
    for expert, layer in enumerate([0, 0, 0, 1, 1, 2, 2, 2, 3, 3]):  # e * 4 // 10
        for name in ("gate_up", "down"):
            old, new = dense[f"experts.{layer}.{name}"], begun[f"experts.{expert}.{name}"]
            assert float((new - old).std() / old.std()) == pytest.approx(noise, rel=0.05)
    assert not noise or not begun["experts.0.down"].equal(begun["experts.1.down"])
    routers = {name: value for name, value in begun.items() if ".router." in name}
    assert len(routers) == 8 and all(float(routers[f"layers.{layer}.router.scale"]) == 1 for layer in range(4))
    assert 0.08 < float(routers["layers.0.router.weight"].std()) < 0.12  # model.init_std
    rest = dense.keys() - {name for name in dense if name.startswith("experts.")}
    assert all(torch.equal(begun[name], dense[name]) for name in rest) and len(rest) + 20 + 8 == len(begun)


def test_what_cannot_become_pools_is_refused(exports: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert "for dense models" in fail("import", exports / "norm", run, *POOL, "--upcycle")
    assert "choose more experts" in fail("import", exports / "dense", run, "pool.num_experts=3", "--upcycle")
    assert "pool.router=none cannot" in fail(
        "import",
        exports / "dense",
        run,
        "pool.router=none",
        "pool.num_experts=1",
        "pool.balance.loss=none",
        "--upcycle",
    )
    other = (*POOL, "model.ffn_hidden_size=64")
    assert "has shape (1, 96, 32) instead of (1, 128, 32)" in fail(
        "import", exports / "dense", run, *other, "--upcycle"
    )
    assert "--upcycle: " in fail("import", exports / "dense", run, "pool.experts=3", "--upcycle")
    assert "--noise is for --upcycle" in call("import", exports / "dense", run, "--noise", 1).stderr
    assert not run.exists()
