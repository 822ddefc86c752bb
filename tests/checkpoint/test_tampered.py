"""No command executes what a tampered index asks for, even if the manifest was made to fit."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint.command_line import call, fail
from tests.checkpoint.damage import adapt_manifest, copy_run, replace_file


class _Attack:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"mkdir {self.marker}",)


@pytest.fixture
def tampered(trained: Path, tmp_path: Path) -> Path:
    """A run whose checkpoint of step 4 makes ``executed`` beside it when its index is unpickled."""
    folder = copy_run(trained, tmp_path / "run").folder(4)
    with (folder / ".metadata").open("rb") as file:
        index = pickle.load(file)
    index.planner_data = _Attack(tmp_path / "executed")
    replace_file(folder / ".metadata", pickle.dumps(index))
    adapt_manifest(folder)
    return tmp_path / "run"


COMMANDS: dict[str, Callable[[Path], tuple[object, ...]]] = {
    "inspect": lambda out: (),
    "reshard": lambda out: (out,),
    "export": lambda out: (out,),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_executed(command: str, tampered: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert ".metadata asks for posix.system" in fail(command, tampered, *COMMANDS[command](out))
    assert not (tmp_path / "executed").exists()
    assert not (out / "checkpoints").exists() and not (out / "export.json").exists()
    assert not list(tmp_path.glob("out.*"))


def test_commands_that_need_no_index_do_not_read_it(tampered: Path, tmp_path: Path) -> None:
    assert call("list", tampered).exit_code == call("verify", tampered).exit_code == 0
    assert not (tmp_path / "executed").exists()


def test_the_attack_is_one(tampered: Path, tmp_path: Path) -> None:
    with (tampered / "checkpoints" / "step-00000004" / ".metadata").open("rb") as file:
        pickle.load(file)
    assert (tmp_path / "executed").is_dir()
