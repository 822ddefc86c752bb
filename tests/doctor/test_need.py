"""What the checkpoints of a run will need, from its configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.training import TINY, tiny_config
from unipool_dist.checkpoint.directory import CheckpointDirectory, outdated
from unipool_dist.cli.doctor import checkpoint_need, read_config
from unipool_dist.config import load_config, outline
from unipool_dist.model.families import inventory


@pytest.mark.parametrize(
    ("settings", "num_kept"),
    [
        (["checkpoint.interval=10", "checkpoint.keep_last=2"], 3),  # and one that is being written
        (["checkpoint.interval=10", "checkpoint.keep_last=0"], 10),
        (["checkpoint.interval=10", "checkpoint.keep_last=1", "checkpoint.keep_every=50"], 3),
        (["checkpoint.interval=0"], 1),
        (["checkpoint.interval=1000"], 1),
    ],
)
def test_as_many_checkpoints_as_there_will_be_at_a_time(tmp_path: Path, settings: list[str], num_kept: int) -> None:
    need = checkpoint_need(tiny_config(f"run.dir={tmp_path}", *settings))
    assert (need.num_kept, need.num_there) == (num_kept, 0)


def test_a_vocabulary_that_the_configuration_gives_is_counted_without_a_corpus(tmp_path: Path) -> None:
    nowhere = (f"run.dir={tmp_path}", f"data.path={tmp_path / 'nothing'}")
    given = checkpoint_need(tiny_config(*nowhere, "model.vocab_size=512"))
    assert given.note == ""
    asked = checkpoint_need(outline(load_config(None, [*TINY, *nowhere, "model.vocab_size=null"]), 1))
    assert asked.note == ", vocabulary not counted" and asked.bytes_each < given.bytes_each


@pytest.mark.parametrize("name", ["tiny.yaml", "0-train.seed=1/config.yaml", "train.seed=1"])
def test_a_configuration_may_be_in_a_folder_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("model: {num_layers: 3}\n")
    monkeypatch.chdir(tmp_path)
    for argument in (str(path), name):
        config = read_config((argument, "train.seed=7"))
        assert config is not None and (config.model.num_layers, config.train.seed) == (3, 7)
    path.unlink()
    alone = read_config(("train.seed=1", "model.num_layers=4"))
    assert alone is not None and (alone.model.num_layers, alone.train.seed) == (4, 1)


def test_masters_and_moments_count_and_so_does_what_is_there(tmp_path: Path) -> None:
    config = tiny_config(f"run.dir={tmp_path}")
    numel = sum(spec.numel for spec in inventory(config))
    assert checkpoint_need(config).bytes_each == 12 * numel
    plain = checkpoint_need(tiny_config(f"run.dir={tmp_path}", "optimizer.name=sgd"))
    assert plain.bytes_each == 4 * numel
    CheckpointDirectory(tmp_path).folder(7).mkdir(parents=True)
    assert checkpoint_need(config).num_there == 1


@given(*(st.integers(low, 40) for low in (1, 0, 0, 0)))
@settings(max_examples=100, deadline=None)
def test_what_is_kept_is_what_the_run_would_keep(last: int, interval: int, keep_last: int, keep_every: int) -> None:
    fields = {"steps": last}, {"interval": interval, "keep_last": keep_last, "keep_every": keep_every}
    config = tiny_config("model.vocab_size=512", "run.dir=nowhere", "data.path=nowhere", "optimizer.decay=constant")
    config = replace(
        config,
        train=config.train.model_copy(update=fields[0]),
        checkpoint=config.checkpoint.model_copy(update=fields[1]),
    )
    steps = sorted({*(range(interval, last, interval) if interval else ()), last})
    kept = len(steps) - len(outdated(steps, keep_last, keep_every))
    assert checkpoint_need(config).num_kept == (min(kept + 1, len(steps)) if keep_last else len(steps))


def test_a_billion_checkpoints_are_counted_at_once() -> None:
    config = tiny_config("model.vocab_size=512", "run.dir=nowhere", "train.steps=1000000000", "checkpoint.interval=1")
    assert checkpoint_need(config).num_kept == config.checkpoint.keep_last + 1
