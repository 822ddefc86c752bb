"""``checkpoint list`` and ``inspect``: what they print, and what they do where something is missing or damaged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.checkpoint.command_line import call, document, fail, step_folder, succeed
from tests.checkpoint.damage import copy_run, replace_file
from tests.checkpoint.known_state import tensors_on_disk
from unipool_dist.cli import cli
from unipool_dist.config import load_config, resolve_model

COMMANDS = ("list", "verify", "inspect", "reshard", "export", "import")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(cli, ["checkpoint", command, "--help"], catch_exceptions=False)
    assert result.exit_code == 0 and "--json" in result.output


def test_list_shows_every_checkpoint(trained: Path) -> None:
    head, *lines = succeed("list", trained).splitlines()
    assert head.split() == ["step", "written", "at", "size", "files", "written", "by", "state"]
    assert [line.split()[0] for line in lines] == ["2", "4"]
    assert all("  2  pp 1 x dp 2 x tp 1, q 2  whole" in line for line in lines)
    entries = document("list", trained)["checkpoints"]
    for entry, step in zip(entries, (2, 4), strict=True):
        folder = step_folder(trained, step)
        assert (entry["step"], entry["path"], entry["kind"]) == (step, str(folder), "checkpoint")
        assert entry["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
        assert (entry["files"], entry["whole"], entry["faults"]) == (2, True, [])


def test_list_marks_what_is_no_checkpoint(trained: Path, tmp_path: Path) -> None:
    checkpoints = copy_run(trained, tmp_path / "run").path
    for name in ("step-00000006.writing", "step-00000001.deleting", "aside/step-00000004.damaged", "notes", "step-5"):
        (checkpoints / name).mkdir(parents=True)
    shutil.copytree(checkpoints / "step-00000004", checkpoints / "aside" / "step-00000004.superseded")
    (checkpoints / "step-00000006.writing" / "__0_0.distcp").write_bytes(b"1234")
    entries = document("list", tmp_path / "run")["checkpoints"]
    assert [(e["step"], e["kind"], e["reason"], e["whole"]) for e in entries] == [
        (1, "half-deleted", None, False),
        (2, "checkpoint", None, True),
        (4, "checkpoint", None, True),
        (4, "aside", "damaged", False),
        (4, "aside", "superseded", True),
        (6, "unfinished", None, False),
    ]
    assert (entries[-1]["bytes"], entries[-1]["files"]) == (4, 1)
    states = [line.split("  ")[-1] for line in succeed("list", tmp_path / "run").splitlines()[1:]]
    assert states[0] == "half-deleted" and states[1] == states[2] == "whole"
    assert states[3].startswith("set aside (damaged): ") and "manifest.json is missing" in states[3]
    assert states[4] == "set aside (superseded): whole"
    assert states[5] == "unfinished: being written, or left by a killed run"


def test_list_says_what_is_wrong_by_size(trained: Path, tmp_path: Path) -> None:
    folder = copy_run(trained, tmp_path / "run").folder(4)
    replace_file(folder / "__1_0.distcp", b"")
    (folder.with_name("step-00000002") / "state.json").unlink()
    first, second = document("list", tmp_path / "run")["checkpoints"]
    assert (first["whole"], second["whole"]) == (False, False)
    assert "state.json is missing" in first["faults"][0]
    assert "__1_0.distcp has 0 bytes instead of " in second["faults"][0]


def test_a_run_without_checkpoints_and_no_run(tmp_path: Path) -> None:
    assert "has no checkpoints" in succeed("list", tmp_path)
    assert document("list", tmp_path)["checkpoints"] == []
    for command in ("verify", "inspect"):
        assert "CheckpointError" in fail(command, tmp_path) and "has no checkpoints" in fail(command, tmp_path)
    for command in ("list", "verify", "inspect"):
        assert "not a directory; give the run.dir of a run" in fail(command, tmp_path / "missing")


def test_inspect_shows_what_a_checkpoint_says(trained: Path, tiny_corpus: Path) -> None:
    text = succeed("inspect", trained)
    assert f"{step_folder(trained, 4)}, whole by its manifest" in text
    assert "step 4, 32 samples, 1,024 tokens" in text
    assert "4 layers, hidden 32, 4 heads, vocabulary 384, sequences of 32" in text
    shown = document("inspect", trained, "--step", 2)
    assert shown["path"] == str(step_folder(trained, 2))
    progress = shown["progress"]
    assert (progress["step"], progress["consumed_samples"], progress["tokens"]) == (2, 16, 512)
    assert progress["layout"] == {"pp": 1, "dp": 2, "tp": 1, "pool_parallel_size": 2, "stages_per_group": 1}
    assert progress["versions"]["torch"] and len(progress["data"]["content_hash"]) == 64
    assert shown["config"]["data"]["path"] == str(tiny_corpus)


def test_inspect_counts_and_lists_tensors(trained: Path) -> None:
    shown = document("inspect", trained, "--tensors")
    config = load_config(step_folder(trained, 4) / "config.yaml")
    by_name = {tensor["name"]: tensor for tensor in shown["tensors"]}
    assert set(by_name) == tensors_on_disk(resolve_model(config))
    assert by_name["exp_avg/experts.3.down"] == {
        "name": "exp_avg/experts.3.down",
        "shape": [32, 48],
        "dtype": "float32",
        "bytes": 4 * 32 * 48,
        "chunks": by_name["exp_avg/experts.3.down"]["chunks"],
    }
    assert max(tensor["chunks"] for tensor in shown["tensors"]) > 1, "two ranks have written parts of a tensor"
    experts = 16 * 3 * 32 * 48
    for kind in ("master", "exp_avg", "exp_avg_sq"):
        of_kind = [tensor for name, tensor in by_name.items() if name.startswith(f"{kind}/")]
        sums = shown["kinds"][kind]
        assert sums["count"] == len(of_kind)
        assert sums["bytes"] == 4 * sums["elements"] == sum(tensor["bytes"] for tensor in of_kind)
        assert sums["expert_bytes"] == 4 * experts
    table = succeed("inspect", trained, "--tensors").splitlines()
    assert any(line.split()[:3] == ["master/experts.15.gate_up", "96x32", "float32"] for line in table)
    assert not any(line.startswith("master/experts") for line in succeed("inspect", trained).splitlines())


def test_one_checkpoint_may_be_given_by_its_folder(trained: Path, tmp_path: Path) -> None:
    for name in ("step-00000002", "renamed"):
        moved = tmp_path / name
        shutil.copytree(step_folder(trained, 2), moved)
        assert document("inspect", moved)["progress"]["step"] == 2
        assert document("verify", moved)["checkpoints"][0] | {"bytes": 0} == {
            "step": 2,
            "ok": True,
            "faults": [],
            "bytes": 0,
        }
        assert document("inspect", moved, "--step", 2)["progress"]["step"] == 2
        assert "is one checkpoint already, not that of step 4" in fail("inspect", moved, "--step", 4)
        assert f"{moved} is one checkpoint; give the run.dir" in fail("list", moved)
    os.symlink(step_folder(trained, 2), tmp_path / "latest")
    assert document("inspect", tmp_path / "latest")["progress"]["step"] == 2


def test_the_newest_whole_checkpoint_is_meant_and_others_are_named(trained: Path, tmp_path: Path) -> None:
    folder = copy_run(trained, tmp_path / "run").folder(4)
    (folder / "__0_0.distcp").unlink()
    result = call("inspect", tmp_path / "run", "--json")
    assert '"step": 2' in result.stdout
    assert "warning: " in result.stderr and f"{folder / '__0_0.distcp'} is missing" in result.stderr
    assert "__0_0.distcp is missing" in fail("inspect", tmp_path / "run", "--step", 4)
    assert "has no checkpoint of step 3; there are: 2, 4" in fail("inspect", tmp_path / "run", "--step", 3)
    (folder.with_name("step-00000002") / "manifest.json").unlink()
    message = fail("inspect", tmp_path / "run")
    assert "no checkpoint that is whole" in message and "manifest.json is missing" in message


def test_a_checkpoint_under_the_name_of_another_step_is_damaged(trained: Path, tmp_path: Path) -> None:
    folder = copy_run(trained, tmp_path / "run").folder(4)
    shutil.rmtree(folder)
    folder.with_name("step-00000002").rename(folder)
    assert "manifest.json is that of step 2" in fail("inspect", tmp_path / "run")
    assert call("verify", tmp_path / "run").exit_code == 1
