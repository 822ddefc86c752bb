"""What the user is told of a field that does not exist, and of very many faults."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from unipool_dist.config import Config, load_config
from unipool_dist.config.faults import _SYNONYMS
from unipool_dist.config.fields import fields_of, is_section
from unipool_dist.errors import ConfigError


def said_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("optimizer.learning_rate", "optimizer.lr"),
        ("optimizer.Learning-Rate", "optimizer.lr"),
        ("train.batch_size", "train.global_batch_size"),
        ("model.num_heads", "model.num_attention_heads"),
        ("parallel.ep", "pool.parallel_size"),
        ("model.d_model", "model.hidden_size"),
        ("train.learning_rate", "optimizer.lr"),
        ("optimizer.gradient_clipping", "optimizer.clip_grad"),
        ("optimizer.warmup_step", "optimizer.warmup_steps"),
        ("model.hidden_sizes", "model.hidden_size"),
        ("checkpoint.intervall", "checkpoint.interval"),
    ],
)
def test_the_field_that_was_meant_is_named(name: str, meant: str) -> None:
    assert f"{name}: no such field; did you mean {meant}?" in said_of(f"{name}=1")


@pytest.mark.parametrize("name", ["model.tie_embeddings", "train.fp16", "model.dropout", "optimizer.nesterov"])
def test_nothing_is_suggested_where_there_is_nothing_of_the_kind(name: str) -> None:
    assert f"{name}: no such field; see docs/configuration.md" in said_of(f"{name}=1")


def test_every_synonym_is_of_a_field_that_exists_and_none_is_a_field() -> None:
    fields = {name for name, field in fields_of(Config) if not is_section(field.annotation)}
    assert set(_SYNONYMS.values()) <= fields
    assert not _SYNONYMS.keys() & {name.rpartition(".")[2] for name in fields}


def test_very_many_faults_are_told_soon_and_in_short(tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    path.write_text("".join(f"k{number}{'x' * 300}: 1\n" for number in range(700)))
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert time.process_time() - began < 5
    lines = str(caught.value).splitlines()
    assert len(lines) == 21 and lines[-1].strip() == "and 681 more"
    assert max(map(len, lines)) < 200


def test_nothing_of_a_file_reaches_the_terminal_raw(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text('"\\e[2J\\e]0;owned\\a": 1\npool: {router: "\\e[2J", "\\u202e": 2}\n')
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).replace("\n", "").isprintable()
