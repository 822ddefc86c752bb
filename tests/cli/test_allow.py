"""``train --allow``: what it takes, and that the processes it starts get it too."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from unipool_dist import api
from unipool_dist.checkpoint.compatibility import ALLOWED
from unipool_dist.cli import cli
from unipool_dist.cli.train import _flags, train
from unipool_dist.config import load_config
from unipool_dist.errors import ConfigError
from unipool_dist.run.beginning import next_step
from unipool_dist.run.start import Start


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "empty.yaml").write_text("{}\n")
    return str(tmp_path / "empty.yaml")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--allow", "data.weights"], "--allow is about a run that is resumed; give --resume or --from with it"),
        (["--resume", "--allow", "train.seed"], "is not one of"),
        (["--resume", "--allow", "model.hidden_size"], "is not one of"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(options: list[str], said: str, config: str) -> None:
    result = CliRunner().invoke(cli, ["train", config, *options])
    assert result.exit_code == 2 and said in result.output


def test_the_processes_are_asked_for_what_the_command_was() -> None:
    for start in (
        Start(resume=True, allow=("data.weights", "data.path")),
        Start(resume=True, must_resume=True, allow=("model.sequence_length",)),
        Start(resume=True, from_step=7, allow=("train.global_batch_size",)),
    ):
        context = train.make_context("train", [*_flags(start), "--", "config.yaml"])
        assert context.params["allow"] == start.allow
        assert context.params["from_step"] == start.from_step


def test_the_api_takes_the_same_fields() -> None:
    assert set(ALLOWED) == {"model.sequence_length", "data.weights", "train.global_batch_size", "data.path"}
    with pytest.raises(ConfigError, match=r"allow=\['train.seed'\]: a resume may be allowed to change "):
        api.train(load_config(None), resume=True, allow=["train.seed"])


def test_the_next_step_is_known_before_the_launch(tmp_path: Path) -> None:
    for step in (4, 12):
        folder = tmp_path / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("{}")
    assert next_step(tmp_path, Start()) == 1
    assert next_step(tmp_path, Start(resume=True)) == 13
    assert next_step(tmp_path, Start(resume=True, from_step=4)) == 5
    assert next_step(tmp_path / "new", Start(resume=True)) == 1
