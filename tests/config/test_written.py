"""Configurations of checkpoints: of earlier versions, of later ones, and damaged."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import yaml

from unipool_dist.config import config_text, load_config, load_written
from unipool_dist.config.roles import flat
from unipool_dist.config.written import ADDED
from unipool_dist.errors import ConfigError


def written(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    values = yaml.safe_load(config_text(load_config(None, ["pool.balance.bias_rate=0.5", "optimizer.lr=0.02"])))
    change(values)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


EARLIER = sorted((Path(__file__).parent / "earlier").glob("*.yaml"))


@pytest.mark.parametrize("path", EARLIER, ids=lambda path: path.stem)
def test_what_an_earlier_version_wrote_is_read(path: Path) -> None:
    """From a copy of its RUN/config.yaml: a new field that must be in ``ADDED`` and is not fails here."""
    config = load_written(path)
    assert (config.train.steps, config.log.sinks) == (20, [])


def test_what_was_written_is_read_and_may_be_overridden(tmp_path: Path) -> None:
    path = written(tmp_path / "config.yaml", lambda values: None)
    assert load_written(path) == load_config(path)
    assert load_written(path, ["train.seed=5"]).train.seed == 5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda values: values["model"].update(window=7), "model.window: no such field in this version, has 7"),
        (
            lambda values: values["pool"]["balance"].update(beta=0.5),
            "pool.balance.beta: no such field in this version, has 0.5",
        ),
        (lambda values: values.update(vision={"layers": 3}), "vision: no such field in this version, has {layers: 3}"),
        (lambda values: values.update(base="other.yaml"), "base: no such field in this version, has other.yaml"),
    ],
)
def test_an_unknown_field_is_refused_with_its_value(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    with pytest.raises(ConfigError, match="was written by a later version; use that one") as refused:
        load_written(written(tmp_path / "config.yaml", change))
    assert named in str(refused.value)


def test_fields_of_later_versions_have_the_value_that_this_one_worked_with(tmp_path: Path) -> None:
    def earlier(values: dict[str, Any]) -> None:
        for name in ADDED:
            *sections, field = name.split(".")
            del reduce(getitem, sections, values)[field]

    config = load_written(written(tmp_path / "config.yaml", earlier))
    assert (config.pool.balance.bias_rate, config.optimizer.router_lr_scale, config.run.watchdog_s) == (0.0, 1.0, None)
    assert config.model.family == "llama" and config.optimizer.lr == 0.02
    assert {name: flat(config)[name] for name in ADDED} == ADDED


def test_a_field_that_is_free_to_change_may_be_lacking(tmp_path: Path) -> None:
    def earlier(values: dict[str, Any]) -> None:
        del values["log"], values["run"]["watchdog_s"], values["train"]["eval_sequences"]

    config = load_written(written(tmp_path / "config.yaml", earlier))
    assert config.log == load_config(None).log and config.train.eval_sequences == 32


def test_a_field_that_every_version_had_is_missed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lacks fields that every version writes") as refused:
        load_written(written(tmp_path / "config.yaml", lambda values: values["model"].pop("norm_epsilon")))
    assert "model.norm_epsilon" in str(refused.value)
