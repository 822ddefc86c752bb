"""Folders of checkpoints: whatever interrupts a change of them, each is whole or is none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unipool_dist.checkpoint.directory import CheckpointDirectory, outdated
from unipool_dist.checkpoint.manifest import MANIFEST_FILE, Manifest, content_faults, hash_file, read_manifest

CONTENT = {"__0_0.distcp": b"0" * 1000, "__1_0.distcp": b"1" * 2000, "state.json": b"{}\n"}


def write(directory: CheckpointDirectory, step: int) -> None:
    """A checkpoint of made-up files, made as real ones are."""
    directory.begin(step)
    draft = directory.draft(step)
    for name, content in CONTENT.items():
        (draft / name).write_bytes(content)
    files = {name: hash_file(draft / name) for name in CONTENT}
    (draft / MANIFEST_FILE).write_text(Manifest(step, files).dump())
    directory.commit(step)


def is_whole(directory: CheckpointDirectory, step: int) -> bool:
    manifest = read_manifest(directory.folder(step))
    return manifest.step == step and not content_faults(directory.folder(step), manifest.files)


def names(directory: CheckpointDirectory) -> set[str]:
    return {path.name for path in directory.path.iterdir()}


@pytest.fixture
def directory(tmp_path: Path) -> CheckpointDirectory:
    made = CheckpointDirectory(tmp_path)
    for step in (10, 20, 30):
        write(made, step)
    return made


class Interrupted(BaseException):
    """Stands for the end of the process."""


def _dying_after(num_files: int) -> Callable[..., None]:
    """``shutil.rmtree`` of a process that dies after it has removed so many files."""

    def remove(path: Path, *args: Any, **kwargs: Any) -> None:
        for number, file in enumerate(sorted(path.iterdir())):
            if number == num_files:
                raise Interrupted
            file.unlink()
        if num_files == len(CONTENT) + 1:
            raise Interrupted
        path.rmdir()

    return remove


@pytest.mark.parametrize("num_files", range(len(CONTENT) + 2))
def test_an_interrupted_deletion_leaves_no_half_checkpoint(
    directory: CheckpointDirectory, monkeypatch: pytest.MonkeyPatch, num_files: int
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", _dying_after(num_files))
        with pytest.raises(Interrupted):
            directory.delete(20)
    assert directory.steps() == [10, 30]
    assert len(names(directory)) == 3, "what is left of it has another name"
    write(directory, 20)
    directory.delete(20)
    assert names(directory) == {"step-00000010", "step-00000030"}, "what was left is no hindrance, and goes too"


def test_a_deletion_that_dies_before_the_rename_leaves_the_checkpoint_whole(
    directory: CheckpointDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr("os.rename", die)
        with pytest.raises(Interrupted):
            directory.delete(20)
    assert directory.steps() == [10, 20, 30]
    assert is_whole(directory, 20)


@pytest.mark.parametrize("num_files", range(4))
def test_when_a_run_is_replaced_no_checkpoint_of_it_outlives_the_first_deletion(
    directory: CheckpointDirectory, monkeypatch: pytest.MonkeyPatch, num_files: int
) -> None:
    """Or what is saved next would be taken for older than what was to be gone."""
    directory.set_aside(10, "superseded")
    remove = shutil.rmtree

    def die(path: Path) -> None:
        for entry in sorted(path.iterdir())[:num_files]:
            remove(entry)
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", die)
        with pytest.raises(Interrupted):
            directory.delete_all()
    assert directory.steps() == []
    write(directory, 5)
    directory.clean_up()
    assert directory.steps() == [5]
    directory.delete_all()
    assert list(directory.path.parent.iterdir()) == []


def test_a_draft_is_no_checkpoint_until_it_is_committed(
    directory: CheckpointDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr("os.rename", die)
        with pytest.raises(Interrupted):
            write(directory, 40)
    assert directory.steps() == [10, 20, 30]
    assert "step-00000040.writing" in names(directory)
    (directory.draft(40) / "of an earlier attempt").touch()
    write(directory, 40)
    assert is_whole(directory, 40) and not directory.draft(40).exists()
    assert not (directory.folder(40) / "of an earlier attempt").exists()


def test_cleaning_up_removes_what_was_left_and_nothing_else(directory: CheckpointDirectory) -> None:
    others = {"aside", "step-00000005.damaged", "notes"}
    for name in {"step-00000040.writing", "step-00000010.deleting", *others}:
        shutil.copytree(directory.folder(30), directory.path / name)
    (directory.path / "a.writing").write_text("a file of somebody's")
    directory.clean_up()
    assert names(directory) == {"step-00000010", "step-00000020", "step-00000030", "a.writing", *others}
    assert all(is_whole(directory, step) for step in (10, 20, 30))


def test_where_there_is_nothing_there_are_no_checkpoints(tmp_path: Path) -> None:
    directory = CheckpointDirectory(tmp_path / "no run yet")
    directory.clean_up()
    directory.abandon(3)
    assert directory.steps() == [] and not (tmp_path / "no run yet").exists()


def test_setting_aside_overwrites_nothing(directory: CheckpointDirectory) -> None:
    went = []
    for attempt in range(3):
        (directory.folder(20) / "attempt").write_text(str(attempt))
        went.append(directory.set_aside(20, "superseded"))
        assert directory.steps() == [10, 30]
        write(directory, 20)
    (directory.path / "aside" / "step-00000030.damaged").write_text("a file of that name")
    went.append(directory.set_aside(30, "damaged"))
    assert [path.name for path in went] == [
        "step-00000020.superseded",
        "step-00000020.superseded.2",
        "step-00000020.superseded.3",
        "step-00000030.damaged.2",
    ]
    assert [(path / "attempt").read_text() for path in went[:3]] == ["0", "1", "2"]
    assert all(not content_faults(path, read_manifest(path).files) for path in went)
    directory.clean_up()
    assert all(path.is_dir() for path in went)


@pytest.mark.parametrize(
    ("steps", "keep_last", "keep_every", "gone"),
    [
        ([], 2, 0, []),
        ([5], 1, 0, []),
        ([5, 10, 15], 2, 0, [5]),
        ([5, 10, 15], 3, 0, []),
        ([5, 10, 15], 4, 0, []),
        ([5, 10, 15], 0, 0, []),
        ([5, 10, 15], 0, 10, []),
        ([5, 10, 15, 20, 25], 1, 10, [5, 15]),
        ([5, 10, 15, 20, 25], 2, 10, [5, 15]),
        ([5, 10, 15, 20, 25], 2, 7, [5, 10, 15]),
        ([7, 14, 21, 22, 23], 1, 7, [22]),
        ([0, 5, 10], 1, 10, [5]),
        ([1, 2, 3, 4], 1, 1, []),
    ],
)
def test_what_is_outdated(steps: list[int], keep_last: int, keep_every: int, gone: list[int]) -> None:
    assert outdated(steps, keep_last, keep_every) == gone
