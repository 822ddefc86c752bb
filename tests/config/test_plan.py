"""A plan leaves nothing open, and an outline only the vocabulary."""

from __future__ import annotations

import json
import typing
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from unipool_dist.config import Outline, Plan, load_config, outline, resolve, resolve_model
from unipool_dist.config.plan import ModelPlan, ParallelPlan, PoolPlan
from unipool_dist.errors import ConfigError
from unipool_dist.layout.pool_map import PoolMap
from unipool_dist.layout.rank_grid import RankGrid

SIZED = "model.vocab_size=512"


def test_no_type_of_a_size_allows_none_or_auto() -> None:
    for section in (ModelPlan, PoolPlan, ParallelPlan):
        for name, field in section.model_fields.items():
            inner = typing.get_args(field.annotation)
            assert type(None) not in inner and typing.Literal["auto"] not in inner, f"{section.__name__}.{name}"


def test_a_plan_holds_grid_pools_and_batch() -> None:
    plan = resolve(load_config(None, [SIZED, "parallel.pp=2", "pool.layers_per_group=4"]), 4)
    assert plan.grid == RankGrid(2, 2, 1, plan.pool.parallel_size, 2)
    assert plan.pools == PoolMap(num_layers=8, layers_per_pool=4, num_experts=64)
    assert plan.num_microbatches == 2 and plan.tokens_per_step == 16 * 256
    assert plan.run.watchdog_s == 0.75 * plan.parallel.timeout_s
    with pytest.raises(FrozenInstanceError):
        plan.grid = RankGrid(1, 1, 1, 1, 1)  # type: ignore[misc]


def test_its_configuration_is_what_a_run_records() -> None:
    plan = resolve(load_config(None, ["parallel.pp=2"]), 2, tokenizer_size=1000)
    assert plan.config.model == load_config(None, ["model.vocab_size=1024"]).model.model_copy(
        update={"ffn_hidden_size": 512, "num_query_groups": 4}
    )
    assert plan.config.parallel.dp == 1 and plan.config.run.watchdog_s is None
    assert resolve(plan.config, 2) == plan


def test_an_outline_is_no_plan_until_it_has_a_vocabulary() -> None:
    known = outline(load_config(None), 1)
    assert type(known) is Outline and not isinstance(known, Plan)
    with pytest.raises(ConfigError, match=r"model\.vocab_size=null means that of the corpus's tokenizer; set it"):
        known.with_vocabulary()
    plan = known.with_vocabulary(129)
    assert type(plan) is Plan and plan.model.vocab_size == 256
    assert all(getattr(plan, field.name) == getattr(known, field.name) for field in fields(known)[2:])
    given = outline(load_config(None, [SIZED]), 1)
    assert given.with_vocabulary(500).model.vocab_size == given.with_vocabulary().model.vocab_size == 512
    with pytest.raises(ConfigError, match=r"model\.vocab_size=512 must be at least the tokenizer's 513"):
        given.with_vocabulary(513)


def test_the_deepspeed_file_is_read_with_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "zero.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 0}}))
    config = load_config(None, [SIZED, f"optimizer.deepspeed={path}"])
    assert resolve(config, 1).zero.stage == 0
    path.unlink()
    with pytest.raises(ConfigError, match=r"optimizer\.deepspeed=.*: no such file"):
        outline(config, 1)


def test_the_model_of_a_run_needs_neither_its_layout_nor_its_files() -> None:
    written = resolve(load_config(None, [SIZED, "parallel.pp=4", "parallel.tp=2", "pool.num_experts=96"]), 16)
    config = written.config
    gone = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"deepspeed": "gone.json"})})
    plan = resolve_model(gone)
    assert plan.model == written.model and plan.pools == written.pools and plan.grid.world_size == 1


def test_documents_end_with_a_token_only_if_that_is_asked_for() -> None:
    stages = "stages=[{from_step: 3, model.sequence_length: 128}]"
    plan = resolve(load_config(None, [SIZED, "data.reset_at_documents=true", stages]), 1)
    assert plan.document_end is None, "which token it is follows from the tokenizer"
    known = plan.ending_documents_with(7)
    assert known.document_end == known.at(3).document_end == 7, "in every stage of the run"
    plain = resolve(load_config(None, [SIZED]), 1)
    assert plain.ending_documents_with(7).document_end is None
