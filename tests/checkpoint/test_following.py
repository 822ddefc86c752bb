"""Loading follows verification: through the same files, each rank's own if it can be, masters first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import pytest

from tests.checkpoint.command_line import step_folder
from unipool_dist.checkpoint import resume
from unipool_dist.checkpoint.index import read_index
from unipool_dist.checkpoint.manifest import FileRecord, deal, read_manifest
from unipool_dist.checkpoint.resume import Verification


def _files(count: int) -> dict[str, FileRecord]:
    """Of sizes that differ by up to 10 %."""
    return {f"__{rank}_0.distcp": FileRecord(1000 + (rank * 37) % 100, "") for rank in range(count)}


def test_as_many_ranks_as_wrote_each_verify_their_own_file() -> None:
    assert [list(share) for share in deal(_files(12), 12)] == [[f"__{rank}_0.distcp"] for rank in range(12)]


@pytest.mark.parametrize(("files", "ranks"), [(12, 4), (12, 5), (3, 8), (1, 2), (0, 3), (64, 1)])
def test_every_file_is_verified_once_and_none_verifies_much_more_than_others(files: int, ranks: int) -> None:
    shares = deal(_files(files), ranks)
    assert len(shares) == ranks
    assert sorted(name for share in shares for name in share) == sorted(_files(files))
    assert max(map(len, shares)) <= -(-files // ranks)


def test_masters_come_first_in_every_file(trained: Path) -> None:
    folder = step_folder(trained, 2)
    found = read_index(folder, read_manifest(folder).files).storage_data
    ends: dict[str, int] = {}
    begins: dict[str, int] = {}
    for index, info in found.items():
        if index.fqn.startswith("master/"):
            ends[info.relative_path] = max(ends.get(info.relative_path, 0), info.offset + info.length)
        else:
            begins[info.relative_path] = min(begins.get(info.relative_path, info.offset), info.offset)
    assert ends
    assert all(begins[name] >= end for name, end in ends.items())


def test_nothing_is_read_before_the_verification_has_passed_it(tmp_path: Path) -> None:
    go_on = threading.Event()

    def slowly(folder: Path, files: Mapping[str, FileRecord], progress: Callable[[int], None]) -> list[str]:
        progress(10)
        assert go_on.wait(30)
        progress(10)
        return []

    with mock.patch.object(resume, "content_faults", slowly):
        verification = Verification(1, tmp_path, {"mine": FileRecord(20, "")}, None)  # type: ignore[arg-type]
        verification.wait_for("mine", 10)
        readers = [
            threading.Thread(target=verification.wait_for, args=("mine", 11)),
            threading.Thread(target=verification.wait_for, args=("another rank's", 1)),
        ]
        for reader in readers:
            reader.start()
            reader.join(0.1)
            assert reader.is_alive()
        go_on.set()
        for reader in readers:
            reader.join(30)
            assert not reader.is_alive()
