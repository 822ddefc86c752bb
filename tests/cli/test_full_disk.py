"""A full disk ends a command with one line that names the place; nothing is half written, and the next try works."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.runs import write_sources
from tests.support.small_disk import small_disk
from unipool_dist.jobs import slurm


@pytest.mark.parametrize("room", [16_384, 100_000], ids=["for nothing", "for a part"])
def test_a_corpus(unipool_dist: Command, tmp_path: Path, room: int) -> None:
    sources = [f"--source={name}={path}" for name, path in write_sources(tmp_path).items()]
    with small_disk(room) as disk:
        ended = unipool_dist("data", "prepare", disk / "out", *sources, "--vocab-size=320", "--no-progress")
        assert ended.status == 1 and f"{disk}/out" in ended.err and "No space left on device" in ended.err, ended.err
        assert len(ended.err.splitlines()) == 1 and not (disk / "out").exists()


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
