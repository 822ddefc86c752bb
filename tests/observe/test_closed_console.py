"""A run whose console is gone trains on, and its files have everything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.running import one_thread, train_records
from tests.support.runs import train_command
from unipool_dist.checkpoint.directory import CheckpointDirectory


def test_neither_ranks_nor_launcher_end_with_their_console(tiny_corpus: Path, tmp_path: Path) -> None:
    """Both streams lead into one pipe, of which somebody reads the first line only."""
    command = train_command(tiny_corpus, tmp_path / "run", 2, "train.steps=30", "train.eval_interval=10")
    read, write = os.pipe()
    with subprocess.Popen(command, stdout=write, stderr=write, env=one_thread()) as run:
        os.close(write)
        assert os.read(read, 1)
        os.close(read)
        assert run.wait(300) == 0
    assert [record["step"] for record in train_records(tmp_path / "run")] == list(range(1, 31))
    assert CheckpointDirectory(tmp_path / "run").steps()[-1] == 30
    assert (tmp_path / "run" / "loss_curve.png").exists()
