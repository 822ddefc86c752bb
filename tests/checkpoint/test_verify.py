"""``checkpoint verify`` reads every byte, names each bad file, and ends with status 1 if there is one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoint.command_line import call, document, step_folder, succeed
from tests.checkpoint.damage import copy_run, flip_bit, replace_file, swap
from unipool_dist.base.progress_bars import Count
from unipool_dist.checkpoint.finding import Depth
from unipool_dist.checkpoint.manifest import Manifest
from unipool_dist.cli.checkpoint import listing


def test_whole_checkpoints_are_whole(trained: Path) -> None:
    assert [line.split(",")[0] for line in succeed("verify", trained).splitlines()] == [
        "step 2: whole",
        "step 4: whole",
    ]
    shown = document("verify", trained)
    assert shown["ok"] and [result["step"] for result in shown["checkpoints"]] == [2, 4]
    for result in shown["checkpoints"]:
        folder = step_folder(trained, result["step"])
        files = [path for path in folder.iterdir() if path.name != "manifest.json"]
        assert result == {
            "step": result["step"],
            "ok": True,
            "faults": [],
            "bytes": sum(path.stat().st_size for path in files),
        }
    assert [result["step"] for result in document("verify", trained, "--step", 2)["checkpoints"]] == [2]


def _swap(folder: Path) -> None:
    swap(folder / "__0_0.distcp", folder / "__1_0.distcp")


def _cut(folder: Path) -> None:
    replace_file(folder / "__1_0.distcp", (folder / "__1_0.distcp").read_bytes()[:-1])


def _cut_and_flip(folder: Path) -> None:
    _cut(folder)
    flip_bit(folder / "state.json", 1)


DAMAGE: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "a flipped bit": (lambda folder: flip_bit(folder / "__0_0.distcp", 5), ("__0_0.distcp",)),
    "a flipped bit of the index": (lambda folder: flip_bit(folder / ".metadata", 5), (".metadata",)),
    "truncated": (_cut, ("__1_0.distcp",)),
    "missing": (lambda folder: (folder / "config.yaml").unlink(), ("config.yaml",)),
    "swapped": (_swap, ("__0_0.distcp", "__1_0.distcp")),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), ("manifest.json",)),
    "two files": (_cut_and_flip, ("__1_0.distcp", "state.json")),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_named(name: str, trained: Path, tmp_path: Path) -> None:
    damage, files = DAMAGE[name]
    folder = copy_run(trained, tmp_path / "run").folder(4)
    damage(folder)
    result = call("verify", tmp_path / "run", "--json")
    assert result.exit_code == 1
    shown = json.loads(result.stdout)
    whole, damaged = shown["checkpoints"]
    assert whole["ok"] and not damaged["ok"] and not shown["ok"]
    assert len(damaged["faults"]) == len(files)
    for file, fault in zip(files, sorted(damaged["faults"]), strict=True):
        assert fault.startswith(f"{folder / file} ")
    text = call("verify", tmp_path / "run")
    assert text.exit_code == 1
    assert "step 2: whole" in text.stdout and "step 4: DAMAGED" in text.stdout
    assert all(f"  {folder / file} " in text.stdout for file in files)
    assert call("verify", tmp_path / "run", "--step", 2).exit_code == 0
    assert call("verify", tmp_path / "run", "--step", 4).exit_code == 1


def test_a_checkpoint_that_a_run_deletes_meanwhile_is_not_damaged(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = copy_run(trained, tmp_path / "run")
    read_all = listing.examine

    def read_after_deletion(folder: Path, depth: Depth, count: Count) -> tuple[Manifest | None, list[str]]:
        if folder.name == "step-00000002":
            directory.delete(2)
        return read_all(folder, depth, count)

    monkeypatch.setattr(listing, "examine", read_after_deletion)
    result = call("verify", tmp_path / "run")
    assert result.exit_code == 0
    assert result.stdout.startswith("step 4: whole") and "step-00000002 was deleted meanwhile" in result.stderr
