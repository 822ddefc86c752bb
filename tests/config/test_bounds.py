"""Sizes that cannot be are refused by arithmetic, at once; those of the largest models there are, are taken."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from unipool_dist.cli.model import model
from unipool_dist.config import load_config, outline, resolve
from unipool_dist.errors import UnipoolError
from unipool_dist.planning.memory import rank_kinds
from unipool_dist.planning.parameters import count_parameters

ABSURD = [
    "pool.num_experts=1000000000000",
    "pool.top_k=1000000000000",
    "pool.parallel_size=1000000007",
    "model.num_layers=1000000",
    "model.hidden_size=1" + "0" * 400,
    "model.hidden_size=10000000",
    "model.ffn_hidden_size=1000000000000",
    "model.vocab_size=100000000000",
    "model.vocab_divisor=1000000000000",
    "model.sequence_length=1000000000000",
    "model.num_attention_heads=1000000000000",
    "parallel.tp=1000000007",
    "parallel.dp=1000000000000",
    "parallel.pp=1000000000",
    "parallel.timeout_s=1e300",
    "parallel.timeout_s=0.001",
    "train.steps=1" + "0" * 30,
    "train.global_batch_size=1" + "0" * 30,
    "train.seed=4294967296",
    "train.seed=1764240000000000000",
    "train.eval_sequences=1" + "0" * 30,
    "optimizer.warmup_steps=1" + "0" * 30,
    "checkpoint.interval=1" + "0" * 30,
    "run.time_limit_s=1e300",
    "run.watchdog_s=0.001",
    "run.watchdog_s=0.01",
    "run.watchdog_s=1e300",
    "data.weights={web: 1e300}",
    "run.dir=" + "x" * 300,
    "run.dir=a\0b",
    "run.dir=\ud800",
    "data.path=" + "x/" * 10_000,
]
IMPOSSIBLE = [
    (("parallel.tp=99991",), 1),
    (("parallel.pp=10000", "parallel.tp=100000", "parallel.dp=100000"), 10**14),
    (("parallel.dp=100000", "pool.num_experts=99991", "pool.parallel_size=99991"), 100_000),
    (("model.num_layers=10000", "pool.num_experts=100000", "pool.layers_per_group=1"), 1),
    (("model.num_layers=10000", "parallel.pp=10000", "pool.layers_per_group=3", "pool.stages_per_group=5"), 10_000),
    (("model.num_layers=10000", "parallel.pp=10000", "pool.layers_per_group=4", "pool.stages_per_group=16"), 10_000),
]
LARGE = [
    ("model.num_layers=126", "model.hidden_size=16384", "model.num_attention_heads=128", "model.num_query_groups=8",
     "model.sequence_length=131072", "model.vocab_size=128256", "parallel.pp=16", "parallel.tp=8", "parallel.dp=128",
     "pool.num_experts=2048", "train.global_batch_size=2048", "train.micro_batch_size=1", "train.steps=1000000"),
    ("model.num_layers=60", "model.hidden_size=7168", "model.num_attention_heads=128", "pool.num_experts=256",
     "pool.layers_per_group=1", "pool.stages_per_group=1", "parallel.pp=20", "parallel.dp=100", "pool.top_k=8",
     "model.vocab_size=129280", "train.global_batch_size=15400", "train.micro_batch_size=1"),
    ("model.num_layers=10000", "model.vocab_size=1024", "parallel.pp=10000", "parallel.dp=8", "pool.layers_per_group=1",
     "pool.stages_per_group=1", "pool.num_experts=8", "train.global_batch_size=8", "train.micro_batch_size=1"),
]  # fmt: skip


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("model: {vocab_size: 1024}\n")
    return path


@pytest.mark.parametrize("override", ABSURD, ids=lambda override: override[:40].encode("unicode_escape").decode())
def test_a_field_has_bounds(override: str, config_file: Path) -> None:
    began = time.process_time()
    result = CliRunner().invoke(model, [str(config_file), override])
    assert isinstance(result.exception, UnipoolError), result.output
    said = ("must be", "a number of more than 64 characters", "a path cannot", "a name in a path cannot")
    assert any(words in str(result.exception) for words in said)
    assert len(str(result.exception)) < 600
    assert time.process_time() - began < 2


@pytest.mark.parametrize(("overrides", "world_size"), IMPOSSIBLE)
def test_fields_that_cannot_go_together_are_refused_at_once(overrides: tuple[str, ...], world_size: int) -> None:
    began = time.process_time()
    with pytest.raises(UnipoolError) as caught:
        outline(load_config(None, overrides), world_size)
    assert len(str(caught.value)) < 1500
    assert time.process_time() - began < 2


@pytest.mark.parametrize("overrides", LARGE)
def test_what_is_large_and_real_is_counted_at_once(overrides: tuple[str, ...]) -> None:
    began = time.process_time()
    config = load_config(None, overrides)
    parallel = config.parallel
    assert isinstance(parallel.dp, int)
    world_size = parallel.pp * parallel.tp * parallel.dp
    resolved = resolve(config, world_size)
    kinds = rank_kinds(resolved)
    assert sum(kind.num_ranks for kind in kinds) == world_size
    assert sum(count_parameters(resolved).stored.values()) > 0
    assert time.process_time() - began < 2


def test_too_many_processes_are_refused_by_the_command_line(config_file: Path) -> None:
    for number in ("1000000000000000", "100001", "0"):
        result = CliRunner().invoke(model, [str(config_file), f"--nproc={number}"])
        assert result.exit_code == 2 and "--nproc" in result.output
