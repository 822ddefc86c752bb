"""A full disk ends a command with one line that names the place; nothing is half written, and the next try works."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.runs import write_sources
from tests.support.small_disk import small_disk
from tests.support.trees import snapshot
from unipool_dist.jobs import slurm


@pytest.mark.parametrize("room", [16_384, 100_000], ids=["for nothing", "for a part"])
def test_a_corpus(unipool_dist: Command, tmp_path: Path, room: int) -> None:
    sources = [f"--source={name}={path}" for name, path in write_sources(tmp_path).items()]
    with small_disk(room) as disk:
        ended = unipool_dist("data", "prepare", disk / "out", *sources, "--vocab-size=320", "--no-progress")
        assert ended.status == 1 and f"{disk}/out" in ended.err and "No space left on device" in ended.err, ended.err
        assert len(ended.err.splitlines()) == 1 and not (disk / "out").exists()


@pytest.mark.program
@pytest.mark.parametrize("number", [1, 2])
def test_the_corpus_that_is_there_stays_and_what_was_done_is_continued(
    unipool_dist: Command, tmp_path: Path, number: int
) -> None:
    sources = [f"--source={name}={path}" for name, path in write_sources(tmp_path).items()]
    with small_disk(1_000_000) as disk:
        command = ("data", "prepare", disk / "out", *sources, "--no-progress", f"--workers={number}")
        assert unipool_dist(*command, "--vocab-size=320").status == 0
        before = snapshot(disk / "out")
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        text = sum(path.stat().st_size for path in tmp_path.glob("*.txt"))
        (disk / "filler").write_bytes(bytes(free - text - 50_000))  # enough for the text, and not for its tokens
        ended = unipool_dist(*command, "--vocab-size=330", "--force")
        assert ended.status == 1 and "No space left on device" in ended.err and len(ended.err.splitlines()) == 1
        after = snapshot(disk / "out")
        # Seen by that way, a folder on the disk looks like a mount point, which is filled from within.
        assert {name: data for name, data in after.items() if not name.startswith(".partial")} == before
        pieces = sorted(disk.rglob("work/text/*.keys"))
        assert pieces
        written = pieces[0].stat().st_mtime_ns
        (disk / "filler").unlink()
        assert unipool_dist(*command, "--vocab-size=330", "--force", "--shard=0/2").status == 0
        assert pieces[0].stat().st_mtime_ns == written
        assert unipool_dist(*command, "--vocab-size=330", "--force").status == 0
        assert snapshot(disk / "out") != before


@pytest.mark.parametrize("room", [4096, 200_000], ids=["for nothing", "for a part"])
def test_a_submission(
    unipool_dist: Command, tmp_path: Path, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(slurm, "submit_script", lambda script, options: pytest.fail("submitted"))
    # The disk is seen through a link of /proc, which resolving would leave.
    monkeypatch.setattr(Path, "resolve", lambda path, strict=False: path.absolute())
    config = tmp_path / "c.yaml"
    config.write_text(f"data: {{path: {tiny_corpus}}}\nmodel: {{num_layers: 2}}\n")
    with small_disk(room) as disk:
        size = ("--nodes=1", "--tasks-per-node=1", "--time=60")
        ended = unipool_dist("submit", config, f"run.dir={disk}/run", *size)
        assert ended.status == 1 and f"{disk}/run" in ended.err and "No space left on device" in ended.err, ended.err
        assert len(ended.err.splitlines()) == 1 and os.listdir(disk) == []
