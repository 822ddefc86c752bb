"""Through the command line: metrics.jsonl of two layouts agree, step by step."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.runs import train_command

STEPS = 20


def _metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.real_programs
def test_metrics_agree_between_layouts(tiny_corpus: Path, tmp_path: Path) -> None:
    layouts = {
        "one": (1, []),
        "pp2-dp2": (4, ["parallel.pp=2", "parallel.dp=2", "pool.parallel_size=4"]),
    }
    found = {}
    for name, (nproc, overrides) in layouts.items():
        run_dir = tmp_path / name
        command = train_command(
            tiny_corpus, run_dir, nproc, f"train.steps={STEPS}", "optimizer.epsilon=1e-5", *overrides
        )
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert str(run_dir / "loss_curve.png") in done.stdout
        for produced in ("loss_curve.png", "expert_usage.png", "config.yaml", "tensorboard"):
            assert (run_dir / produced).exists(), produced
        found[name] = _metrics(run_dir)
    steps = {name: [record for record in records if "loss" in record] for name, records in found.items()}
    for name, records in steps.items():
        assert [record["step"] for record in records] == list(range(1, STEPS + 1)), name
        assert {"aux_loss", "lr", "tokens", "tokens_per_s"} <= records[0].keys()
    assert all(record["busiest_rank_over_mean"] == 1.0 for record in steps["one"]), "there is only one rank"
    assert all(1.0 < record["busiest_rank_over_mean"] < 4.0 for record in steps["pp2-dp2"])
    for column in ("loss", "grad_norm", "aux_loss"):
        one, many = ([record[column] for record in steps[name]] for name in layouts)
        np.testing.assert_allclose(many, one, rtol=1e-4, err_msg=column)
    (one_validation,), (many_validation,) = (
        [record["validation"] for record in records if "validation" in record] for records in found.values()
    )
    assert one_validation.keys() == {"prose", "sums"}
    for domain, loss in one_validation.items():
        np.testing.assert_allclose(many_validation[domain], loss, rtol=1e-4, err_msg=domain)
