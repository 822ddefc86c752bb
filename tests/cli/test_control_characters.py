"""What files say of themselves is shown, but does nothing to the terminal that shows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.checkpoint.support import DATA
from tests.support.command import Command
from unipool_dist.base.stopping import Stop, StopReason
from unipool_dist.checkpoint.manifest import MANIFEST_FILE, Manifest, hash_file
from unipool_dist.checkpoint.progress import STATE_FILE, Progress
from unipool_dist.checkpoint.randomness import random_state
from unipool_dist.run.heartbeat import HeartbeatWriter
from unipool_dist.run.state import RunState

WILD = "\x1b[2J\x1b]0;owned\x07\r\x9b1m\u202e\nrow"
SHOWN = r"\x1b[2J\x1b]0;owned\x07\r\x9b1m\u202e\nrow"


def _shows(command: Command, *arguments: object) -> str:
    ended = command(*arguments)
    said = ended.out + ended.err
    assert not {char for char in said if not char.isprintable() and char != "\n"}, repr(said)
    assert SHOWN.removesuffix(r"\nrow") in said, said
    return said


def test_a_corpus(unipool_dist: Command, tiny_corpus: Path, tmp_path: Path) -> None:
    """The licence and the version of a source."""
    folder = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, folder)
    document = json.loads((folder / "manifest.json").read_text())
    for domain in document["domains"].values():
        for origin in domain["origins"]:
            origin |= {"license": WILD, "version": WILD}
    (folder / "manifest.json").write_text(json.dumps(document))
    assert _shows(unipool_dist, "data", "show", folder).count(SHOWN) == 4


def test_a_checkpoint(unipool_dist: Command, tmp_path: Path) -> None:
    """When it was written, and by which versions."""
    folder = tmp_path / "checkpoints" / "step-00000004"
    folder.mkdir(parents=True)
    sizes = {"pp": 1, "dp": 1, "tp": 1, "pool_parallel_size": 1, "stages_per_group": 1}
    progress = Progress(
        step=4,
        consumed_samples=32,
        schedule_steps=4,
        optimizer_states=True,
        data=DATA,
        random=random_state(),
        versions={WILD: WILD},
        layout=sizes,
        written_at=WILD,
    )
    (folder / STATE_FILE).write_text(progress.dump())
    manifest = Manifest(4, {STATE_FILE: hash_file(folder / STATE_FILE)})
    (folder / MANIFEST_FILE).write_text(manifest.dump())
    _shows(unipool_dist, "checkpoint", "list", tmp_path)


@pytest.mark.parametrize(
    "text", [r'{"\e[2J\e]0;owned\a\r\x9b1m\u202e\nrow": 1}', r'model: {"a\e[2J\e]0;owned\a\r\x9b1m\u202e\nrow": 1}']
)
def test_a_configuration_with_unknown_names(unipool_dist: Command, tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    _shows(unipool_dist, "model", tmp_path / "c.yaml")


def test_the_name_and_the_state_of_a_run(unipool_dist: Command, tmp_path: Path) -> None:
    run_dir = tmp_path / WILD
    run_dir.mkdir()
    beat = HeartbeatWriter(run_dir, steps=9, resumed_from=0)
    beat.write(3, RunState.STOPPED, Stop(StopReason.UNKNOWN, WILD))
    beat.close()
    (run_dir / "config.yaml").write_text("{}")
    said = _shows(unipool_dist, "status", run_dir)
    assert said.count(SHOWN) == 3, "in the table, and before and after the colon of the reason"
