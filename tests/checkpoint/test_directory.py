"""Folders of checkpoints: whatever interrupts a change of them, each is whole or is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.trees import snapshot
from unipool_dist.base.belongings import ForeignError
from unipool_dist.checkpoint.directory import CheckpointDirectory, outdated
from unipool_dist.checkpoint.manifest import MANIFEST_FILE, Manifest, content_faults, hash_file, read_manifest

CONTENT = {"__0_0.distcp": b"0" * 1000, "__1_0.distcp": b"1" * 2000}
CONTENT |= {"state.json": b"{}\n", "config.yaml": b"{}\n", ".metadata": b"index"}


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


def die_after(patched: pytest.MonkeyPatch, num_removals: int) -> None:
    """Let the process die when it has removed so many files and folders."""
    left = num_removals

    def dying(remove: Callable[..., None]) -> Callable[..., None]:
        def instead(path: Path, *args: Any, **kwargs: Any) -> None:
            nonlocal left
            if left == 0:
                raise Interrupted
            left -= 1
            remove(path, *args, **kwargs)

        return instead

    patched.setattr(Path, "unlink", dying(Path.unlink))
    patched.setattr(Path, "rmdir", dying(Path.rmdir))


@pytest.mark.parametrize("num_files", range(len(CONTENT) + 2))
def test_an_interrupted_deletion_leaves_no_half_checkpoint(
    directory: CheckpointDirectory, monkeypatch: pytest.MonkeyPatch, num_files: int
) -> None:
    with monkeypatch.context() as patched:
        die_after(patched, num_files)
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


@pytest.mark.parametrize("num_removals", range(9))
def test_when_a_run_is_replaced_no_checkpoint_of_it_outlives_the_first_deletion(
    directory: CheckpointDirectory, monkeypatch: pytest.MonkeyPatch, num_removals: int
) -> None:
    """Or what is saved next would be taken for older than what was to be gone."""
    aside = directory.set_aside(10, "superseded")
    with monkeypatch.context() as patched:
        die_after(patched, num_removals)
        with pytest.raises(Interrupted):
            directory.delete_all()
    assert directory.steps() == []
    write(directory, 5)
    directory.clean_up()
    assert directory.steps() == [5]
    directory.delete_all()
    assert names(directory) == {"aside"} and list((directory.path / "aside").iterdir()) == [aside]


@pytest.mark.parametrize("num_renames", range(3))
def test_a_replacement_that_dies_before_it_deletes_leaves_the_newest_checkpoint(
    directory: CheckpointDirectory, monkeypatch: pytest.MonkeyPatch, num_renames: int
) -> None:
    rename = os.rename
    done: list[tuple[Path, ...]] = []

    def die(*paths: Path) -> None:
        if len(done) == num_renames:
            raise Interrupted
        rename(*paths)
        done.append(paths)

    with monkeypatch.context() as patched:
        patched.setattr("os.rename", die)
        with pytest.raises(Interrupted):
            directory.delete_all()
    assert directory.steps() == [10, 20, 30][num_renames:] and is_whole(directory, 30)


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
    (directory.draft(40) / "__7_0.distcp").touch()  # of an earlier attempt with more ranks
    write(directory, 40)
    assert is_whole(directory, 40) and not directory.draft(40).exists()
    assert not (directory.folder(40) / "__7_0.distcp").exists()


def _notes_in_a_checkpoint(directory: CheckpointDirectory) -> None:
    (directory.folder(20) / "notes.txt").write_text("the one of the paper")


def _renamed_checkpoint(directory: CheckpointDirectory) -> None:
    directory.folder(20).rename(directory.path / "step-20-best")


def _someone_elses_folder(directory: CheckpointDirectory) -> None:
    (directory.path / "epoch=3").mkdir()


def _someone_elses_file(directory: CheckpointDirectory) -> None:
    (directory.path / "epoch=3.ckpt").write_text("weights")


def _a_file_named_like_a_checkpoint(directory: CheckpointDirectory) -> None:
    (directory.path / "step-00000040").write_text("weights")


def _a_folder_named_like_a_checkpoint(directory: CheckpointDirectory) -> None:
    directory.folder(40).mkdir()
    (directory.folder(40) / "thesis.tex").write_text("years of work")


def _a_folder_named_like_a_draft(directory: CheckpointDirectory) -> None:
    directory.draft(40).mkdir()
    (directory.draft(40) / "thesis.tex").write_text("years of work")


def _a_link_that_leads_nowhere(directory: CheckpointDirectory) -> None:
    directory.folder(40).symlink_to("nowhere")


def _a_link_to_something_else(directory: CheckpointDirectory) -> None:
    (directory.path.parent / "mine").mkdir()
    (directory.path.parent / "mine" / "thesis.tex").write_text("years of work")
    directory.folder(40).symlink_to(directory.path.parent / "mine")


FOREIGN = [
    _notes_in_a_checkpoint,
    _renamed_checkpoint,
    _someone_elses_folder,
    _someone_elses_file,
    _a_file_named_like_a_checkpoint,
    _a_folder_named_like_a_checkpoint,
    _a_folder_named_like_a_draft,
    _a_link_that_leads_nowhere,
    _a_link_to_something_else,
]


@pytest.mark.parametrize("put", FOREIGN)
def test_what_is_no_checkpoint_is_named_and_nothing_is_deleted(
    directory: CheckpointDirectory, put: Callable[[CheckpointDirectory], None]
) -> None:
    put(directory)
    before = snapshot(directory.path.parent)
    with pytest.raises(ForeignError, match="unipool-dist has not made"):
        directory.delete_all()
    directory.clean_up()
    assert snapshot(directory.path.parent) == before


def test_a_checkpoint_with_something_else_in_it_is_not_deleted(directory: CheckpointDirectory) -> None:
    _notes_in_a_checkpoint(directory)
    with pytest.raises(ForeignError, match=r"step-00000020/notes\.txt"):
        directory.delete(20)
    assert directory.steps() == [10, 20, 30] and is_whole(directory, 20)
    assert directory.in_the_way() == [], "a run may go on beside it"


@pytest.mark.parametrize("put", FOREIGN[4:])
def test_what_is_where_a_checkpoint_would_be_is_in_the_way(
    directory: CheckpointDirectory, put: Callable[[CheckpointDirectory], None]
) -> None:
    put(directory)
    assert [path.name for path in directory.in_the_way()] in ([directory.folder(40).name], [directory.draft(40).name])


def test_links_to_scratch_are_used_and_never_followed_to_delete(directory: CheckpointDirectory) -> None:
    scratch = directory.path.parent / "scratch"
    directory.path.rename(scratch)
    directory.path.symlink_to("scratch")
    (scratch / "step-00000010").rename(scratch.parent / "elsewhere")
    (scratch / "step-00000010").symlink_to("../elsewhere")
    before = snapshot(scratch.parent / "elsewhere")
    directory.delete(10)
    directory.delete(20)
    assert directory.steps() == [30] and snapshot(scratch.parent / "elsewhere") == before
    (scratch / "step-00000010").symlink_to("../elsewhere")
    write(directory, 40)
    assert is_whole(directory, 10) and is_whole(directory, 40)
    went = directory.set_aside(10, "superseded")
    assert went.is_symlink() and not content_faults(went, read_manifest(went).files)
    (scratch / "step-00000010").symlink_to("../elsewhere")
    directory.delete_all()
    assert directory.path.is_symlink() and names(directory) == {"aside"}
    assert snapshot(scratch.parent / "elsewhere") == before


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
