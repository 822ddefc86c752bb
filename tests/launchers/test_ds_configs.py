"""The DeepSpeed configurations that come with the project load, and what they change is memory, never the result."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.training import assemble_weights, train_variants
from tests.support.workers import Workers, free_port
from unipool_dist.config.deepspeed import read_deepspeed_config
from unipool_dist.errors import ConfigError

FILES = sorted((Path(__file__).parents[2] / "ds_configs").glob("*.json"))
MODELS = [("optimizer.name=sgd",), ("train.dtype=bf16",)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_loads(path: Path) -> None:
    assert read_deepspeed_config(str(path)).stage in (0, 1)


@pytest.mark.parametrize("stage", [2, 3])
def test_other_stages_are_refused(tmp_path: Path, stage: int) -> None:
    path = tmp_path / "zero.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
    with pytest.raises(ConfigError, match=f"stage={stage} is not legal here"):
        read_deepspeed_config(str(path))


def test_other_sections_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "zero.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}}))
    with pytest.raises(ConfigError, match="remove bf16"):
        read_deepspeed_config(str(path))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model[0])
def test_bucket_size_does_not_change_the_result(workers: Workers, tmp_path: Path, model: tuple[str, ...]) -> None:
    path = tmp_path / "zero.json"
    # So small that the parameters need many buckets, and the largest fits in none.
    path.write_text(json.dumps({"zero_optimization": {"stage": 1, "reduce_bucket_size": 4000}}))
    variants = [model, (*model, f"optimizer.deepspeed={path}")]
    by_rank = workers.run(train_variants, 2, variants, [free_port() for _ in variants], 3)
    one_bucket, many = ([results[index] for results in by_rank] for index in range(2))
    assert many[0].losses == one_bucket[0].losses
    assert many[0].grad_norms == pytest.approx(one_bucket[0].grad_norms, rel=1e-12)
    expected = assemble_weights(one_bucket)
    for name, value in assemble_weights(many).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("layout", [(), ("parallel.pp=2", "pool.parallel_size=2"), ("parallel.tp=2",)], ids=str)
def test_the_stage_does_not_change_the_result(workers: Workers, layout: tuple[str, ...]) -> None:
    zero0 = next(path for path in FILES if path.name == "zero0.json")
    model = ("optimizer.name=sgd", "optimizer.clip_grad=0.05", "train.global_batch_size=8", *layout)
    variants = [model, (*model, f"optimizer.deepspeed={zero0}")]
    by_rank = workers.run(train_variants, 4, variants, [free_port() for _ in variants], 3)
    stage1, stage0 = ([results[index] for results in by_rank] for index in range(2))
    assert stage0[0].losses == pytest.approx(stage1[0].losses, rel=1e-6)
    assert stage0[0].grad_norms == pytest.approx(stage1[0].grad_norms, rel=1e-6)
    expected = assemble_weights(stage1)
    for name, value in assemble_weights(stage0).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, atol=1e-7, err_msg=name)
