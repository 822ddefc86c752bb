"""Settings that change nothing are named, where the user has set them."""

from __future__ import annotations

from pathlib import Path

import pytest

from unipool_dist.config import config_text, load_config
from unipool_dist.config.effects import settings_without_effect

DENSE = ("pool.router=none", "pool.num_experts=1", "pool.balance.loss=none")
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("**/*.yaml"))

# What is set, beside what, and why it changes nothing.
IDLE = [
    ("optimizer.momentum=0.9", (), "optimizer.name=adamw"),
    ("optimizer.beta1=0.8", ("optimizer.name=sgd",), "optimizer.name=sgd"),
    ("optimizer.beta2=0.99", ("optimizer.name=sgd",), "optimizer.name=sgd"),
    ("optimizer.epsilon=1e-06", ("optimizer.name=sgd",), "optimizer.name=sgd"),
    ("optimizer.min_lr=0.0", ("optimizer.decay=constant",), "optimizer.decay=constant"),
    ("optimizer.wsd_decay_steps=20", (), "optimizer.decay=cosine"),
    ("optimizer.wsd_decay=cosine", ("optimizer.decay=linear",), "optimizer.decay=linear"),
    ("optimizer.router_lr_scale=0.1", DENSE, "pool.router=none"),
    ("pool.router_init_std=0.5", DENSE, "pool.router=none"),
    ("pool.placement_steps=[5]", (), "pool.placement=contiguous"),
    ("pool.balance.alpha=0.5", ("pool.balance.loss=none",), "pool.balance.loss=none"),
    ("pool.balance.scores=raw", ("pool.balance.loss=none",), "pool.balance.loss=none"),
    ("pool.balance.window=microbatch", ("pool.balance.loss=layer",), "pool.balance.loss=layer"),
    ("train.eval_interval=10", ("train.eval_sequences=0",), "train.eval_sequences=0"),
    ("checkpoint.keep_every=10", ("checkpoint.keep_last=0",), "checkpoint.keep_last=0 keeps all"),
    ("checkpoint.keep_every=10", ("checkpoint.interval=0",), "checkpoint.interval=0 saves at the end or a stop only"),
    ("log.online=True", (), "log.sinks=[]"),
    ("log.project=mine", (), "log.sinks=[]"),
    ("log.profile_ranks=[1]", (), "log.profile_steps=null"),
    ("run.watchdog_s=900.0", (), "parallel.timeout_s=600.0 comes first"),
]


@pytest.mark.parametrize(("setting", "others", "reason"), IDLE)
def test_a_setting_without_effect_is_named(setting: str, others: tuple[str, ...], reason: str) -> None:
    said = settings_without_effect(load_config(None, [*others, setting]))
    assert said == [f"{setting} has no effect, as {reason}"]
    assert settings_without_effect(load_config(None, others)) == []


def test_one_that_has_an_effect_is_not(tmp_path: Path) -> None:
    used = [
        "optimizer.name=sgd",
        "pool.balance.loss=my:Loss",
        "pool.balance.window=microbatch",
        "optimizer.momentum=0.9",
        "pool.balance.alpha=0.5",
        "checkpoint.keep_every=10",
    ]
    assert settings_without_effect(load_config(None, used)) == []


def test_what_is_written_out_in_full_was_not_set(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config_text(load_config(None, ["optimizer.name=sgd", *DENSE])))
    assert settings_without_effect(load_config(path)) == []


@pytest.mark.parametrize("path", [path for path in CONFIGS if "model:" in path.read_text()], ids=lambda path: path.stem)
def test_no_configuration_of_the_project_has_one(path: Path) -> None:
    assert settings_without_effect(load_config(path)) == []
