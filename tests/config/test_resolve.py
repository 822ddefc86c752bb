"""What follows from the number of processes, and every layout and size that is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipool_dist.config import Outline, load_config, outline
from unipool_dist.errors import ConfigError, TopologyError


def resolved(world_size: int, *overrides: str) -> Outline:
    return outline(load_config(None, overrides), world_size)


def test_nulls_resolve_as_documented() -> None:
    config = resolved(8, "parallel.pp=2", "parallel.tp=2", "model.num_layers=6", "model.init_std=0.02")
    assert config.model.ffn_hidden_size == 4 * config.model.hidden_size
    assert config.model.num_query_groups == config.model.num_attention_heads
    assert config.model.vocab_size is None  # known only with the tokenizer
    assert config.pool.layers_per_group == 6
    assert config.pool.stages_per_group == 2
    assert config.pool.router_init_std == 0.02
    assert config.pool.parallel_size == 8
    assert config.parallel.dp == 2


def test_given_values_stay() -> None:
    given_values = {
        "model.ffn_hidden_size": 96,
        "model.num_query_groups": 2,
        "pool.layers_per_group": 4,
        "pool.stages_per_group": 1,
        "pool.router_init_std": 0.5,
        "pool.parallel_size": 2,
        "parallel.dp": 2,
    }
    config = resolved(4, "parallel.pp=2", *(f"{name}={value}" for name, value in given_values.items()))
    for name, value in given_values.items():
        section, field = name.split(".")
        assert getattr(getattr(config, section), field) == value


@pytest.mark.parametrize(
    ("world_size", "overrides", "parallel_size"),
    [
        (1, [], 1),
        (6, ["pool.num_experts=64", "train.global_batch_size=24"], 2),  # 64 experts cannot be split over 3 or 6 ranks
        (4, ["parallel.pp=2", "pool.stages_per_group=1"], 2),
        (4, ["parallel.pp=2", "pool.num_experts=6"], 2),
        (8, ["parallel.pp=2", "parallel.tp=2"], 8),
    ],
)
def test_parallel_size_is_the_largest_legal_one(world_size: int, overrides: list[str], parallel_size: int) -> None:
    assert resolved(world_size, *overrides).pool.parallel_size == parallel_size


def test_resolving_twice_changes_nothing() -> None:
    once = resolved(4, "parallel.pp=2")
    assert outline(once.config, 4) == once


DENSE = ["pool.router=none", "pool.num_experts=1", "pool.balance.loss=none"]


def test_a_dense_model_needs_no_sizes_of_the_pool() -> None:
    pool = resolved(8, "parallel.pp=2", "parallel.tp=2", *DENSE).pool
    assert (pool.layers_per_group, pool.stages_per_group, pool.parallel_size) == (1, 1, 1)


# World size, overrides, the error, and the fields with their values and the fix that its message must give.
REFUSED = [
    (6, ["parallel.pp=4"], TopologyError, ["6 processes", "parallel.pp=4", "parallel.tp=1", "multiple of 4"]),
    (6, ["parallel.pp=2", "parallel.dp=4"], TopologyError, ["parallel.pp=2", "parallel.dp=4", "6 were", "start 8"]),
    (3, ["parallel.pp=3", "pool.num_experts=64"], TopologyError, ["pool.num_experts=64", "stages_per_group=3", "pp=3"]),
    (1, ["model.hidden_size=130"], ConfigError, ["hidden_size=130", "num_attention_heads=4", "multiple of 4"]),
    (1, ["model.hidden_size=12"], ConfigError, ["hidden_size=12", "num_attention_heads=4", "width 3", "fewer heads"]),
    (1, ["model.num_query_groups=3"], ConfigError, ["num_attention_heads=4", "num_query_groups=3", "divisor of 4"]),
    (2, ["parallel.tp=2", "model.num_query_groups=1"], TopologyError, ["num_query_groups=1", "tp=2", "lower tp"]),
    (2, ["parallel.tp=2", "model.sequence_length=33"], TopologyError, ["sequence_length=33", "tp=2", "multiple of 2"]),
    (2, ["parallel.tp=2", "model.vocab_divisor=5"], TopologyError, ["vocab_divisor=5", "tp=2", "set it to 10"]),
    (2, ["parallel.tp=2", "model.vocab_size=99"], TopologyError, ["vocab_size=99", "tp=2", "multiple of 2", "null"]),
    (4, ["parallel.pp=4", "model.num_layers=2"], TopologyError, ["parallel.pp=4", "num_layers=2", "lower pp"]),
    (1, ["pool.top_k=65"], ConfigError, ["pool.top_k=65", "pool.num_experts=64", "lower top_k"]),
    (1, ["pool.num_experts=1"], ConfigError, ["pool.num_experts=1", "NormRouter", "pool.router=none"]),
    (1, ["pool.router=none"], ConfigError,
     ["pool.router=none", "dense", "set pool.num_experts=1 pool.balance.loss=none"]),
    (4, [*DENSE, "pool.top_k=2", "pool.layers_per_group=8", "pool.parallel_size=4", "pool.stages_per_group=2"],
     ConfigError,
     ["set pool.top_k=1 pool.layers_per_group=1 pool.parallel_size=1 pool.stages_per_group=1"]),
    (1, ["pool.layers_per_group=3"], ConfigError, ["num_layers=8", "layers_per_group=3", "divisor of 8"]),
    (4, ["parallel.pp=4", "pool.stages_per_group=3", "pool.parallel_size=3"], TopologyError,
     ["parallel.pp=4", "stages_per_group=3", "divisor of 4"]),
    (4, ["parallel.pp=2", "pool.parallel_size=3"], TopologyError, ["parallel_size=3", "stages_per_group=2", "2, 4"]),
    (6, ["parallel.pp=2", "pool.parallel_size=4", "train.global_batch_size=24"], TopologyError,
     ["parallel_size=4", "stages_per_group=2", "3 ranks each", "2, 6"]),
    (6, ["parallel.pp=2", "pool.parallel_size=6", "train.global_batch_size=24"], TopologyError,
     ["pool.num_experts=64", "parallel_size=6", "multiple of 6"]),
    (3, ["train.global_batch_size=16"], ConfigError,
     ["global_batch_size=16", "micro_batch_size=4", "parallel.dp=3", "nearest that is: 12"]),
    (1, ["optimizer.lr=1e-5"], ConfigError, ["optimizer.min_lr=0.0001", "optimizer.lr=1e-05", "lower min_lr"]),
    (1, ["train.steps=10"], ConfigError, ["warmup_steps=10", "train.steps=10", "decay=constant"]),
]  # fmt: skip


@pytest.mark.parametrize(("world_size", "overrides", "error", "parts"), REFUSED)
def test_what_cannot_be_is_refused_with_fields_values_and_a_fix(
    world_size: int, overrides: list[str], error: type[Exception], parts: list[str]
) -> None:
    with pytest.raises(error) as caught:
        resolved(world_size, *overrides)
    assert type(caught.value) is error
    for part in parts:
        assert part in str(caught.value)


def test_warmup_may_fill_a_run_without_decay() -> None:
    resolved(1, "train.steps=10", "optimizer.decay=constant")


degrees = st.sampled_from([1, 2, 3, 4])


@settings(max_examples=200, deadline=None)
@given(pp=degrees, tp=st.sampled_from([1, 2, 4]), dp=degrees, num_experts=st.sampled_from([6, 8, 24, 64]))
def test_whatever_resolves_keeps_the_rules_of_the_layout(pp: int, tp: int, dp: int, num_experts: int) -> None:
    overrides = [f"parallel.pp={pp}", f"parallel.tp={tp}", f"pool.num_experts={num_experts}"]
    try:
        config = resolved(pp * tp * dp, *overrides, f"train.global_batch_size={4 * dp}")
    except TopologyError:
        if num_experts % pp == 0:  # the only reason left with these sizes
            raise
        return
    q, n = config.pool.parallel_size, config.pool.stages_per_group
    assert n == pp
    assert q % n == 0
    assert (dp * tp) % (q // n) == 0
    assert num_experts % q == 0
    assert config.parallel.dp == dp


def test_the_nearest_batch_size_that_is_named_works() -> None:
    for world_size in (3, 5, 7):
        with pytest.raises(ConfigError) as caught:
            resolved(world_size, "train.global_batch_size=18", "pool.num_experts=210")
        found = re.search(r"nearest that is: (\d+)", str(caught.value))
        assert found is not None
        resolved(world_size, f"train.global_batch_size={found[1]}", "pool.num_experts=210")
