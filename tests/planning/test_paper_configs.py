"""configs/paper: sizes are the paper's, the table says what the files give, and runs differ in what they should."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from unipool_dist.config import Plan, load_config, resolve
from unipool_dist.planning.parameters import ParameterCounts, count_parameters

FOLDER = Path(__file__).parents[2] / "configs" / "paper"
FILES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "common.yaml")
NAMES = [path.stem for path in FILES]
SCALES = ("182m", "469m", "650m", "830m", "978m")


def config_of(name: str, *overrides: str, world_size: int = 8) -> Plan:
    return resolve(load_config(FOLDER / f"{name}.yaml", overrides), world_size)


def counts_of(name: str) -> ParameterCounts:
    return count_parameters(config_of(name))


def short(number: int) -> str:
    """Four digits: ``777.9M``, ``2.588B``."""
    return f"{number / 1e6:.1f}M" if number < 1e9 else f"{number / 1e9:.3f}B"


@pytest.mark.parametrize(
    ("kind", "totals"),
    [
        ("unipool", ("777.9M", "2.588B", "3.834B", "5.081B", "5.742B")),
        # 650M has 3,823.48 million: rounded once, not by way of 3,823.5 million, which would be 3.824B.
        ("vanilla", ("777.1M", "2.584B", "3.823B", "5.063B", "5.735B")),
    ],
)
def test_stored_totals_are_those_of_the_paper(kind: str, totals: tuple[str, ...]) -> None:
    found = tuple(short(sum(counts_of(f"{scale}-{kind}").stored.values())) for scale in SCALES)
    assert found == totals


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_is_named_after_its_dense_model(scale: str) -> None:
    dense = counts_of(f"{scale}-dense")
    assert dense.stored == dense.active
    assert sum(dense.stored.values()) / 1e6 == pytest.approx(int(scale[:-1]), rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_training_is_that_of_the_paper(name: str) -> None:
    """Its appendix, and Megatron's defaults where it leaves a field to these: betas, epsilon, weight decay."""
    config = config_of(name)
    optimizer, train, model = config.optimizer, config.train, config.model
    assert (optimizer.name, optimizer.lr, optimizer.min_lr, optimizer.decay) == ("adamw", 5e-4, 5e-5, "cosine")
    assert (train.steps, optimizer.warmup_steps) == (60_000, 600), "warm-up is 1 % of the steps"
    assert (optimizer.weight_decay, optimizer.beta1, optimizer.beta2, optimizer.epsilon) == (0.01, 0.9, 0.999, 1e-8)
    assert (optimizer.clip_grad, train.dtype, train.seed) == (1.0, "bf16", 1234)
    assert (train.global_batch_size, train.micro_batch_size, model.sequence_length) == (512, 16, 1024)
    assert train.eval_interval == 1000
    assert train.eval_sequences == 100 * train.global_batch_size, "100 batches"
    assert (model.rotary_base, model.init_std, model.num_query_groups) == (1e6, 0.01, 4)


@pytest.mark.parametrize("name", NAMES)
def test_routing_and_its_loss_are_those_of_the_paper(name: str) -> None:
    scale, kind = name.split("-")[:2]
    pool = config_of(name).pool
    layer_loss = kind == "vanilla" or name == "182m-shared-softmax-layer"
    of_vanilla = {"182m-vanilla-norm": "norm", "182m-vanilla-sigmoid": "sigmoid"}.get(name, "softmax")
    assert pool.router == {"dense": "none", "unipool": "norm", "shared": "softmax", "vanilla": of_vanilla}[kind]
    without_loss = kind == "dense" or pool.router == "sigmoid"
    assert pool.balance.loss == ("none" if without_loss else "layer" if layer_loss else "pool")
    assert pool.balance.bias_rate == (0.001 if pool.router == "sigmoid" else 0.0)
    if not without_loss:
        # 0.01 in the loss of an ordinary MoE at every scale; in the pool's at 182M, and twice that above.
        assert pool.balance.alpha == (0.01 if layer_loss or scale == "182m" else 0.02)
        assert pool.balance.scores == "raw"
    if pool.balance.loss == "pool":
        assert pool.balance.window == "microbatch"


LAYOUTS = [
    (8, ()),
    (16, ("parallel.dp=16",)),
    (32, ("parallel.dp=32",)),
    (8, ("parallel.pp=2", "parallel.dp=4")),
]


@pytest.mark.parametrize(("world_size", "overrides"), LAYOUTS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_file_fits_its_layout_and_those_that_are_recommended(
    name: str, world_size: int, overrides: tuple[str, ...]
) -> None:
    config = config_of(name, *overrides, world_size=world_size)
    assert config.pool.parallel_size == (1 if name.endswith("dense") else 8)
    assert config.run.dir == f"runs/paper/{name}"


@pytest.mark.parametrize("name", NAMES)
def test_runs_of_a_scale_differ_in_the_pool_alone(name: str) -> None:
    config, unipool = config_of(name).config, config_of(f"{name.split('-')[0]}-unipool").config
    same = config.model_copy(update={"pool": unipool.pool, "run": unipool.run})
    assert same == unipool


def test_a_variant_says_one_thing_and_where_its_run_is() -> None:
    for path in FILES:
        values = yaml.safe_load(path.read_text())
        if values["base"] != "common.yaml":
            assert values.keys() == {"base", "pool", "run"}, path.name


def test_the_table_is_what_the_files_give() -> None:
    table = (FOLDER / "README.md").read_text()
    rows = dict(re.findall(r"^\| `(\d+m-[\w-]+)` \| [^|]+ \| ([^|]+ \| [^|]+) \|", table, re.MULTILINE))
    expected = {
        name: f"{short(sum(counts.stored.values()))} | {short(sum(counts.active.values()))}"
        for name, counts in ((name, counts_of(name)) for name in NAMES)
    }
    assert rows == expected
