"""What a run records is written whole, or later; never in part, and never at the cost of the run."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.small_disk import small_disk
from unipool_dist.observe import lasting_file
from unipool_dist.observe.lasting_file import LastingFile

RECORDS = [b"%d " % number + b"x" * 1500 + b"\n" for number in range(40)]


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk(200_000) as folder:
        yield folder


def _fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    ballast.write_bytes(b"0" * shutil.disk_usage(disk).free)
    return ballast


def test_a_full_disk_delays_records_and_loses_none(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = disk / "records"
    file = LastingFile(path)
    file.write(RECORDS[0])
    ballast = _fill(disk)
    for record in RECORDS[1:20]:
        file.write(record)
        there = path.read_bytes()
        assert there == b"".join(RECORDS)[: len(there)] and there.endswith(b"\n"), "no part of a record is left"
    assert len(path.read_bytes()) < 20 * 1500
    ballast.unlink()
    for record in RECORDS[20:]:
        file.write(record)
    assert path.read_bytes() == b"".join(RECORDS)
    file.close()
    file.close()
    warning, note = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {path} cannot be written: No space left on device; the run continues")
    assert note == f"note: {path} can be written again"


def test_what_is_lost_at_the_end_is_said(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = LastingFile(disk / "records")
    _fill(disk)
    for record in RECORDS:
        file.write(record)
    file.close()
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"warning: {disk / 'records'} lacks 40 records, which could not be written"
    ]


def test_what_waits_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lasting_file, "MAX_KEPT_BYTES", 5 * len(RECORDS[10]))
    file = LastingFile(tmp_path / "records")
    (tmp_path / "records").unlink()
    for record in RECORDS[10:30]:
        file.write(record)
    file.close()
    first, last = capsys.readouterr().err.splitlines()
    assert "records cannot be written: it was deleted; the run continues" in first and "lacks 20 records" in last
    assert not (tmp_path / "records").exists()


def test_a_record_cut_short_is_taken_back_even_if_that_takes_two_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file server that is away for a while: part of a record is there, and neither more nor less can be."""
    path = tmp_path / "records"
    file = LastingFile(path)
    file.write(RECORDS[0])
    is_away = True
    real_write, real_truncate = os.write, os.ftruncate

    def write(descriptor: int, data: Any) -> int:
        if is_away and len(data) < 1000:
            raise OSError(errno.EIO, "away")
        return real_write(descriptor, data[:700] if is_away else data)

    def truncate(descriptor: int, size: int) -> None:
        if is_away:
            raise OSError(errno.EIO, "away")
        real_truncate(descriptor, size)

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "ftruncate", truncate)
    file.write(RECORDS[1])
    assert len(path.read_bytes()) == len(RECORDS[0]) + 700
    file.write(RECORDS[2])
    is_away = False
    file.write(RECORDS[3])
    assert path.read_bytes() == b"".join(RECORDS[:4])
