"""Whatever happens to a file of a checkpoint, it is named, that checkpoint is passed over, an older one is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.checkpoint.damage import FILES, RANKS, Outcome, copy_run, find_all, flip_bit, replace_file, save_run, swap
from tests.support.workers import Workers
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.manifest import MANIFEST_FILE, read_manifest
from unipool_dist.checkpoint.resume import Verify
from unipool_dist.errors import CheckpointError

HASHED = tuple(name for name in FILES if name != MANIFEST_FILE)


def _truncate(path: Path, num_bytes: int) -> None:
    replace_file(path, path.read_bytes()[:num_bytes])


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a flipped bit": lambda path: flip_bit(path, 0),
    "another flipped bit": lambda path: flip_bit(path, 1),
    "a third flipped bit": lambda path: flip_bit(path, 2),
    "half of it": lambda path: _truncate(path, path.stat().st_size // 2),
    "last byte lost": lambda path: _truncate(path, path.stat().st_size - 1),
    "empty": lambda path: _truncate(path, 0),
    "one byte more": lambda path: replace_file(path, path.read_bytes() + b"\n"),
    "removed": Path.unlink,
    "a folder instead": _replace_by_folder,
}
NO_DAMAGE = {(MANIFEST_FILE, "one byte more"), (MANIFEST_FILE, "last byte lost")}
"""A line break more or less at the end of the manifest changes nothing that it says."""


@dataclass(frozen=True)
class Seen:
    """What is found if only the newest checkpoint has the damage, if that one is asked for, and if all have it."""

    newest: Outcome
    asked_for: Outcome
    all: Outcome


def look(workers: Workers, looks: list[tuple[Path, int | None, Verify]]) -> list[Outcome]:
    """What two ranks find, which must be the same."""
    first, second = workers.run(find_all, RANKS, looks)
    assert first == second
    return first


@pytest.fixture(scope="module")
def run_dir(workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of steps 1, 2 and 3; not to be changed."""
    folder = tmp_path_factory.mktemp("run")
    workers.run(save_run, RANKS, folder)
    for step in CheckpointDirectory(folder).steps():
        assert {path.name for path in CheckpointDirectory(folder).folder(step).iterdir()} == set(FILES)
    return folder


@pytest.fixture(scope="module")
def seen(
    workers: Workers, run_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], tuple[Path, Path, Seen]]:
    """By file and damage, the two damaged runs and what was found there; all in one task, to be quick."""
    damaged: dict[tuple[str, str], tuple[Path, Path]] = {}
    looks: list[tuple[Path, int | None, Verify]] = []
    for name in FILES:
        for damage, apply in DAMAGE.items():
            one, every = (tmp_path_factory.mktemp("damaged") / "run" for _ in range(2))
            apply(copy_run(run_dir, one).folder(3) / name)
            directory = copy_run(run_dir, every)
            for step in directory.steps():
                apply(directory.folder(step) / name)
            damaged[name, damage] = one, every
            looks += [(one, None, "hash"), (one, 3, "hash"), (every, None, "hash")]
    outcomes = iter(look(workers, looks))
    return {
        case: (one, every, Seen(next(outcomes), next(outcomes), next(outcomes)))
        for case, (one, every) in damaged.items()
    }


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_its_checkpoint_passed_over(
    seen: dict[tuple[str, str], tuple[Path, Path, Seen]], name: str, damage: str
) -> None:
    one, every, found = seen[name, damage]
    if (name, damage) in NO_DAMAGE:
        assert found == Seen(Outcome(3, {}), Outcome(3, {}), Outcome(3, {}))
        return
    path = CheckpointDirectory(one).folder(3) / name
    assert found.newest.step == 2
    assert found.newest.damaged is not None and found.newest.damaged.keys() == {3}
    assert str(path) in found.newest.damaged[3]
    assert found.asked_for.error is not None
    assert "the checkpoint of step 3 is damaged" in found.asked_for.error and str(path) in found.asked_for.error
    assert found.all.error is not None and "has no checkpoint that is whole" in found.all.error
    for step in (1, 2, 3):
        assert str(CheckpointDirectory(every).folder(step) / name) in found.all.error


def test_exchanged_files_are_noticed(workers: Workers, run_dir: Path, tmp_path: Path) -> None:
    """Two files of one checkpoint, or files of the same name of two checkpoints: each is good, but in a wrong place."""
    looks: list[tuple[Path, int | None, Verify]] = []
    directories = [copy_run(run_dir, tmp_path / str(number)) for number in range(len(FILES) + 1)]
    for directory, name in zip(directories, FILES, strict=False):
        swap(directory.folder(2) / name, directory.folder(3) / name)
        looks.append((directory.path.parent, None, "hash"))
    within = directories[-1]
    swap(*(within.folder(3) / name for name in FILES if name.endswith(".distcp")))
    *between, inside = look(workers, [*looks, (within.path.parent, None, "hash")])
    for directory, name, outcome in zip(directories, FILES, between, strict=False):
        assert outcome.step == 1, name
        assert outcome.damaged is not None and outcome.damaged.keys() == {2, 3}
        for step, fault in outcome.damaged.items():
            assert str(directory.folder(step) / name) in fault
    assert inside.step == 2 and inside.damaged is not None
    for name in FILES:
        assert (str(within.folder(3) / name) in inside.damaged[3]) == name.endswith(".distcp")


def test_a_folder_under_the_name_of_another_step_is_no_checkpoint(
    workers: Workers, run_dir: Path, tmp_path: Path
) -> None:
    directory = copy_run(run_dir, tmp_path / "run")
    directory.folder(3).rename(directory.folder(7))
    newest, asked_for = look(workers, [(tmp_path / "run", None, "hash"), (tmp_path / "run", 7, "size")])
    assert newest.step == 2 and newest.damaged is not None
    for said in (newest.damaged[7], asked_for.error):
        assert said is not None and f"{directory.folder(7) / MANIFEST_FILE} is that of step 3" in said


def test_what_is_no_checkpoint_is_neither_loaded_nor_in_the_way(
    workers: Workers, run_dir: Path, tmp_path: Path
) -> None:
    """Drafts and half-deleted folders least of all, even those with every file in them."""
    directory = copy_run(run_dir, tmp_path / "run")
    for name in ("step-00000008.writing", "step-00000009.deleting", "step-8", "step-00000008.old", "aside"):
        copy_run(run_dir, tmp_path / f"for {name}").folder(3).rename(directory.path / name)
    (directory.path / "step-00000010").write_text("a file\n")
    for step in directory.steps():
        (directory.folder(step) / "notes.txt").write_text("unknown\n")
        (directory.folder(step) / "more").mkdir()
    run = directory.path.parent
    newest, draft, none = look(workers, [(run, None, "hash"), (run, 8, "hash"), (tmp_path, None, "hash")])
    assert newest == Outcome(3, {})
    assert draft.error is not None and draft.error.endswith("has no checkpoint of step 8; there are: 1, 2, 3")
    assert none == Outcome(), "a directory without checkpoints is where a run begins"


def test_sizes_alone_tell_less(workers: Workers, run_dir: Path, tmp_path: Path) -> None:
    looks: list[tuple[Path, int | None, Verify]] = []
    for damage in ("a flipped bit", "last byte lost"):
        DAMAGE[damage](copy_run(run_dir, tmp_path / damage).folder(3) / "__0_0.distcp")
        looks.append((tmp_path / damage, None, "size"))
    flipped, shorter = look(workers, looks)
    assert flipped == Outcome(3, {})
    assert shorter.step == 2


def test_no_flipped_bit_of_a_manifest_goes_unnoticed(run_dir: Path, tmp_path: Path) -> None:
    """All of them: the manifest is the one file that only guards itself."""
    path = tmp_path / MANIFEST_FILE
    content = (CheckpointDirectory(run_dir).folder(3) / MANIFEST_FILE).read_bytes()
    for position in range(len(content) - 1):  # the last is the line break, which says nothing
        for bit in range(8):
            path.write_bytes(content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :])
            with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
                read_manifest(tmp_path)
