"""Run directories that cannot be written, are not there, are full, or are not the same for all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.support.small_disk import small_disk
from unipool_dist.doctor import shared_directory
from unipool_dist.doctor.disk_space import CheckpointNeed, FreeSpace
from unipool_dist.doctor.disk_speed import DiskRead, DiskWrite
from unipool_dist.doctor.findings import Check
from unipool_dist.doctor.measurement import NotMeasuredError
from unipool_dist.doctor.roster import Roster
from unipool_dist.doctor.shared_directory import RunDirectory

ALONE = Roster(["a"])


def examine(path: Path) -> tuple[RunDirectory, list[Check]]:
    directory = RunDirectory(path, ALONE)
    return directory, directory.judge([directory.measure(directory.brief())])


def test_a_directory_that_is_not_there_is_made_and_removed_again(tmp_path: Path) -> None:
    directory, found = examine(tmp_path / "runs" / "a")
    assert [(check.name, check.status) for check in found] == [("run directory", "ok"), ("file locks", "ok")]
    assert (tmp_path / "runs" / "a").is_dir()
    directory.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_has_written_stays(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("x")
    directory, _ = examine(tmp_path)
    directory.close()
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("path", ["/proc/run", "file/run"])
def test_a_directory_that_cannot_be_written_fails(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    directory, (found,) = examine(tmp_path / path)
    assert found.status == "fail" and "another run.dir" in found.advice
    with pytest.raises(NotMeasuredError):
        DiskWrite(directory, 0, ALONE, 8_000_000).brief()
    with pytest.raises(NotMeasuredError):
        DiskRead(directory, 0, ALONE).brief()
    directory.close()


def test_two_directories_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_directory, "_PATIENCE_S", 0.2)
    roster = Roster(["a", "b"])
    (tmp_path / "b").mkdir()
    ours, theirs = RunDirectory(tmp_path / "a", roster), RunDirectory(tmp_path / "b", roster)
    brief = ours.brief()
    found = ours.judge([ours.measure(brief), theirs.measure(brief)])
    assert found[0].status == "fail" and "b (rank 1)" in found[0].advice and str(tmp_path / "b") in found[0].advice
    ours.close()


@pytest.mark.parametrize(("code", "word"), [(None, "rank 0's lock does not reach"), (errno.ENOLCK, "no locks here")])
def test_locks_that_do_not_hold_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None, word: str
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        if code is not None:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(shared_directory.fcntl, "flock", flock)
    directory, (seen, locks) = examine(tmp_path)
    assert seen.status == "ok" and locks.status == "warn" and word in locks.advice
    directory.close()


def test_speed_is_bytes_by_time(tmp_path: Path) -> None:
    directory, _ = examine(tmp_path)
    for probe in (DiskWrite(directory, 0, ALONE, 8_000_000), DiskRead(directory, 0, ALONE)):
        (found,) = probe.judge([probe.measure(probe.brief())])
        (node,) = found.figures["nodes"]
        assert node["bytes"] == 8_000_000 and node["seconds"] > 0
        assert found.value == pytest.approx(node["bytes"] / node["seconds"] / 1e6)
    directory.close()


def test_a_full_disk_is_said_and_not_filled_further() -> None:
    with small_disk(1_000_000) as path:
        directory, found = examine(path)
        assert found[0].status == "ok"
        with pytest.raises(NotMeasuredError, match="too little room"):
            DiskWrite(directory, 0, ALONE, 64_000_000).brief()
        space = FreeSpace(path, CheckpointNeed(2_000_000, 3))
        (check,) = space.judge([space.measure("")])
        assert check.status == "fail" and "make room" in check.advice
        directory.close()
        with (path / "rest").open("wb", buffering=0) as file:
            assert file.write(bytes(2_000_000)) < 2_000_000, "as much as there was room for"
        directory, (full,) = examine(path)
        assert full.status == "fail" and "No space left" in full.advice
        directory.close()
        assert [entry.name for entry in path.iterdir()] == ["rest"]
