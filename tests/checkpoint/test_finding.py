"""Which checkpoint is used is decided in one way, whoever asks; pure."""

from __future__ import annotations

from pathlib import Path

import pytest

from unipool_dist.checkpoint.directory import CheckpointDirectory, step_in_name
from unipool_dist.checkpoint.finding import (
    Depth,
    examine,
    is_checkpoint_folder,
    newest_whole,
    steps_to_try,
)
from unipool_dist.checkpoint.manifest import Manifest, hash_file
from unipool_dist.errors import CheckpointError

CONTENT = {"state.json": "{}", "config.yaml": "{}", ".metadata": "index", "__0_0.distcp": "tensors"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of step 7 as far as its manifest and files tell."""
    folder = tmp_path / "step-00000007"
    folder.mkdir()
    for name, text in CONTENT.items():
        (folder / name).write_text(text)
    manifest = Manifest(7, {name: hash_file(folder / name) for name in CONTENT})
    (folder / "manifest.json").write_text(manifest.dump())
    return folder


@pytest.mark.parametrize(
    ("name", "text", "found_by"),
    [
        ("__0_0.distcp", "tensor", ["sizes", "small files", "every byte"]),
        ("config.yaml", "[]", ["small files", "every byte"]),
        ("__0_0.distcp", "TENSORS", ["every byte"]),
    ],
)
def test_a_fault_is_found_by_every_depth_that_reads_it(folder: Path, name: str, text: str, found_by: list[str]) -> None:
    depths: tuple[Depth, ...] = ("sizes", "small files", "every byte")
    assert [examine(folder, depth)[1] for depth in depths] == [[], [], []]
    (folder / name).write_text(text)
    for depth in depths:
        manifest, faults = examine(folder, depth)
        assert manifest is not None and manifest.step == 7
        assert [name in fault for fault in faults] == [True] * (depth in found_by), depth


def test_a_manifest_of_another_step_or_none_is_a_fault(folder: Path) -> None:
    moved = folder.rename(folder.with_name("step-00000008"))
    assert examine(moved, "sizes")[1] == [f"{moved / 'manifest.json'} is that of step 7"]
    assert examine(moved.rename(folder.with_name("of my own")), "sizes")[1] == [], "any other name will do"
    manifest, faults = examine(folder, "sizes")
    assert manifest is None and str(folder / "manifest.json") in faults[0]


def test_the_newest_without_a_fault_is_taken_and_no_older_one_looked_at() -> None:
    looked: list[int] = []

    def fault_of(step: int) -> str | None:
        looked.append(step)
        return "damaged" if step > 5 else None

    assert newest_whole([1, 3, 5, 7, 9], fault_of) == (5, {9: "damaged", 7: "damaged"})
    assert looked == [9, 7, 5]
    assert newest_whole([7], fault_of) == (None, {7: "damaged"}) and newest_whole([], fault_of) == (None, {})


def test_a_wanted_step_is_the_only_one_to_try(tmp_path: Path) -> None:
    directory = CheckpointDirectory(tmp_path)
    assert steps_to_try(directory, [2, 4], None) == [2, 4] and steps_to_try(directory, [2, 4], 2) == [2]
    with pytest.raises(CheckpointError, match="no checkpoint of step 3; there are: 2, 4"):
        steps_to_try(directory, [2, 4], 3)
    with pytest.raises(CheckpointError, match="there are: none"):
        steps_to_try(directory, [], 3)


def test_names_of_checkpoints(folder: Path) -> None:
    assert step_in_name(folder) == 7 and is_checkpoint_folder(folder)
    for name in ("step-00000007.writing", "step-7", "aside"):
        assert step_in_name(Path(name)) is None
