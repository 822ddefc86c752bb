"""A few kills of ``make soak``: a killed run loses next to nothing, and the soak goes on where it was."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak.campaign import INTERVAL, Soak
from tests.soak.promises import Remains, ViolationError, check_resumed
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.manifest import MANIFEST_FILE, SMALL_FILES, Manifest, hash_file

KILLS = 4


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    Soak(tmp_path, KILLS, 0).end_all()


@pytest.mark.timeout(600)
def test_a_run_that_is_killed_again_and_again_loses_next_to_nothing(folder: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.soak", "--folder", str(folder)]
    command += ["--kills", str(KILLS), "--seed", "13"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as soak:
        assert soak.stdout is not None
        first = soak.stdout.readline()
        soak.terminate()
    assert first.startswith(f"kill   1/{KILLS}: ")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "continuing after 1 kills"
    assert [line.split(":")[0] for line in said[1:KILLS]] == [f"kill {i:3}/{KILLS}" for i in range(2, KILLS + 1)]
    assert re.match(rf"{KILLS} kills, [1-9] during a save", said[KILLS])
    assert said[-1].startswith("no process and no temporary file was left; the final states are those of the uninter")


def remains(run_dir: Path, saved: list[int], reported: list[int], trained: int) -> Remains:
    """What there would be of a run with these checkpoints and records."""
    directory = CheckpointDirectory(run_dir)
    for step in saved:
        directory.begin(step)
        for name in SMALL_FILES:
            (directory.draft(step) / name).write_text(f"{name} of {step}\n")
        files = {name: hash_file(directory.draft(step) / name) for name in SMALL_FILES}
        (directory.draft(step) / MANIFEST_FILE).write_text(Manifest(step, files).dump())
        directory.commit(step)
    records: list[dict[str, object]] = [{"step": step, "loss": 1.0} for step in range(1, trained + 1)]
    records += [{"step": step, "checkpoint": {}} for step in reported]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return Remains(run_dir, INTERVAL)


@pytest.mark.parametrize(
    ("saved", "reported", "trained", "lost", "allowed"),
    [([], [], 0, 0, 5), ([], [], 4, 4, 5), ([], [], 7, 7, 7), ([5], [5], 9, 4, 5), ([5, 10], [5], 18, 8, 8)],
)
def test_what_may_be_lost(
    tmp_path: Path, saved: list[int], reported: list[int], trained: int, lost: int, allowed: int
) -> None:
    """An interval, and more only while the save that is due is not there yet."""
    found = remains(tmp_path, saved, reported, trained)
    assert (found.newest, found.lost, found.allowed) == (max(saved, default=0), lost, allowed)


@pytest.mark.parametrize(
    ("saved", "reported", "trained", "broken"),
    [([], [], 10, "10 steps are lost, 5 are allowed"), ([5], [5, 10], 12, "step 10 was reported as saved")],
)
def test_the_soak_sees_what_is_lost(
    tmp_path: Path, saved: list[int], reported: list[int], trained: int, broken: str
) -> None:
    with pytest.raises(ViolationError, match=broken):
        remains(tmp_path, saved, reported, trained)


def test_the_soak_sees_damage_and_another_step(tmp_path: Path) -> None:
    remains(tmp_path, [5], [5], 7)
    (CheckpointDirectory(tmp_path).folder(5) / "state.json").write_text("state.json of 6\n")
    with pytest.raises(ViolationError, match="damaged"):
        Remains(tmp_path, INTERVAL)
    with (tmp_path / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 7, "loss": 1.0}\n')
    (CheckpointDirectory(tmp_path).folder(5) / "state.json").write_text("state.json of 5\n")
    with pytest.raises(ViolationError, match="has the steps"):
        Remains(tmp_path, INTERVAL)
    check_resumed("resumed after step 5 of 9 from run/checkpoints/step-00000005\n", 5)
    for output in (
        "resumed after step 5 of 9 from run/checkpoints/step-00000005",
        "the checkpoint of step 10 is damaged",
    ):
        with pytest.raises(ViolationError):
            check_resumed(output, 10)
    with pytest.raises(ViolationError, match="which is not a checkpoint"):
        check_resumed("resumed after step 5 of 9 from run/checkpoints/step-00000005.writing", 5)
