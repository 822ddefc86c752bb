"""``checkpoint reshard``: another number of files, the same tensors bit for bit; whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.checkpoint.command_line import call, document, fail, same_bits, step_folder, succeed, tensors_of
from tests.checkpoint.damage import copy_run, flip_bit
from tests.support.trees import snapshot
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.offline.locate import locate
from unipool_dist.checkpoint.offline.rewrite import rewrite_checkpoint
from unipool_dist.checkpoint.offline.tensor_reader import TensorReader
from unipool_dist.checkpoint.pieces import Piece, whole
from unipool_dist.errors import CheckpointError
from unipool_dist.run.lock import RunLock


@pytest.mark.parametrize("num_files", [1, 3, 8])
def test_tensors_are_the_same_and_files_are_even(num_files: int, trained: Path, tmp_path: Path) -> None:
    done = document("reshard", trained, tmp_path / "out", "--files", num_files)
    folder = step_folder(tmp_path / "out", 4)
    assert (done["step"], done["path"], done["files"]) == (4, str(folder), num_files)
    assert done["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    sizes = [path.stat().st_size for path in folder.glob("*.distcp")]
    assert len(sizes) == num_files and max(sizes) <= 1.1 * min(sizes)
    assert same_bits(tensors_of(step_folder(trained, 4), tmp_path), tensors_of(folder, tmp_path))
    for name in ("state.json", "config.yaml"):
        assert (folder / name).read_bytes() == (step_folder(trained, 4) / name).read_bytes()
    assert document("verify", tmp_path / "out")["ok"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", "checkpoints", "config.yaml"}
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == [folder.name]


def test_it_can_be_done_again_and_with_another_step(trained: Path, tmp_path: Path) -> None:
    succeed("reshard", trained, tmp_path / "three", "--files", 3, "--step", 2)
    succeed("reshard", trained, tmp_path / "three", "--files", 5, "--step", 4)
    succeed("reshard", step_folder(tmp_path / "three", 4), tmp_path / "two", "--files", 2)
    assert same_bits(
        tensors_of(step_folder(trained, 4), tmp_path), tensors_of(step_folder(tmp_path / "two", 4), tmp_path)
    )
    found = document("list", tmp_path / "three")["checkpoints"]
    assert [(entry["step"], entry["files"]) for entry in found] == [(2, 3), (4, 5)]


def test_a_step_that_is_there_is_refused(trained: Path, tmp_path: Path) -> None:
    copy_run(trained, tmp_path / "run")
    before = sorted((tmp_path / "run").rglob("*.distcp"))
    assert "step-00000004 exists already" in fail("reshard", tmp_path / "run", tmp_path / "run")
    assert sorted((tmp_path / "run").rglob("*.distcp")) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "# mine\nmodel: {}\n"),
        ("metrics.jsonl", '{"loss": 1}\n'),
        ("checkpoints/epoch=3.ckpt", "weights"),
        ("checkpoints/step-00000004/thesis.tex", "years of work"),
        ("checkpoints/step-00000004.writing/thesis.tex", "years of work"),
        ("checkpoints", "a file"),
        (".lock", "my notes on locks"),
    ],
)
@pytest.mark.parametrize("command", ["reshard", "import"])
def test_what_is_somebody_elses_is_refused_and_stays(
    command: str, name: str, text: str, trained: Path, exported: Path, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    (tmp_path / "notes.txt").write_text("no hindrance")
    before = snapshot(tmp_path)
    message = fail(command, trained if command == "reshard" else exported, tmp_path)
    assert str(tmp_path) in message
    assert snapshot(tmp_path) == before


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model"
    succeed("export", trained, path)
    return path


def test_what_is_damaged_is_not_copied(trained: Path, tmp_path: Path) -> None:
    folder = copy_run(trained, tmp_path / "run").folder(4)
    flip_bit(folder / "__1_0.distcp", 3)
    message = fail("reshard", tmp_path / "run", tmp_path / "out")
    assert message.startswith("CheckpointError") and f"{folder / '__1_0.distcp'} is damaged" in message
    assert not (tmp_path / "out").exists()


def test_too_many_files_are_refused(trained: Path, tmp_path: Path) -> None:
    message = fail("reshard", trained, tmp_path / "out", "--files", 1000)
    assert "less than 64 KiB; choose at most 20" in message
    assert not step_folder(tmp_path / "out", 4).exists()


def test_a_directory_that_is_being_written_is_refused(trained: Path, tmp_path: Path) -> None:
    with RunLock(tmp_path / "out"):
        assert fail("reshard", trained, tmp_path / "out").startswith("RunLockedError")
    assert call("reshard", trained, tmp_path / "out").exit_code == 0


def test_memory_is_that_of_one_box(trained: Path, tmp_path: Path) -> None:
    located = locate(trained, 4)
    pieces = [whole(f"master/{i}", (1024 + 64 * (i % 2), 1024), "float32") for i in range(48)]
    resident: list[int] = []

    def read(piece: Piece, values: torch.Tensor) -> None:
        values.fill_(float(piece.key.removeprefix("master/")))
        status = Path("/proc/self/status").read_text()
        resident.append(int(status.split("RssAnon:")[1].split()[0]) * 1024)

    directory = CheckpointDirectory(tmp_path / "out")
    rewrite_checkpoint(directory, located.progress, located.config, [pieces], read)
    assert max(resident) - resident[0] < sum(piece.num_bytes for piece in pieces) / 4
    written = TensorReader(directory.folder(4))
    assert all(
        torch.equal(written.whole(tensor), torch.full(tensor.shape, float(name.removeprefix("master/"))))
        for name, tensor in written.tensors.items()
    )


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_interrupted_it_leaves_nothing(error: BaseException, trained: Path, tmp_path: Path) -> None:
    located = locate(trained, 4)
    reader = TensorReader(located.folder)
    directory = CheckpointDirectory(tmp_path / "out")
    pieces = [tensor.piece for tensor in reader.tensors.values()]
    seen: list[Piece] = []

    def read(piece: Piece, values: torch.Tensor) -> None:
        seen.append(piece)
        if len(seen) > 20:
            assert list(directory.draft(4).glob("*.distcp")), "it is in the midst of writing"
            raise error
        reader.read(piece, values)

    expected = CheckpointError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        rewrite_checkpoint(directory, located.progress, located.config, [pieces[:30], pieces[30:]], read)
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value) and "make room" in str(caught.value)
    assert list(directory.path.iterdir()) == []


def test_a_draft_that_a_killed_copy_has_left_is_replaced(trained: Path, tmp_path: Path) -> None:
    draft = CheckpointDirectory(tmp_path / "out").draft(4)
    shutil.copytree(step_folder(trained, 2), draft)
    (draft / "__9_0.distcp").write_bytes(b"left")
    succeed("reshard", trained, tmp_path / "out")
    assert not draft.exists()
    assert {path.name for path in step_folder(tmp_path / "out", 4).iterdir()} == {
        ".metadata",
        "__0_0.distcp",
        "config.yaml",
        "manifest.json",
        "state.json",
    }
