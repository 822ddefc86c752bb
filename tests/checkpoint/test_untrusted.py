"""A checkpoint is data: nothing in it is executed, even if it was tampered with and its manifest made to fit."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex

from tests.checkpoint.damage import RANKS, adapt_manifest, copy_run, load_all, replace_file, save_run
from tests.support.workers import Workers
from unipool_dist.checkpoint.index import read_index
from unipool_dist.checkpoint.manifest import INDEX_FILE
from unipool_dist.errors import CheckpointError


class Attack:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def _index(folder: Path) -> Metadata:
    with (folder / INDEX_FILE).open("rb") as file:
        return pickle.load(file)


def _only_an_attack(folder: Path, marker: Path) -> None:
    replace_file(folder / INDEX_FILE, pickle.dumps(Attack(marker)))


def _attack_in_the_index(folder: Path, marker: Path) -> None:
    index = _index(folder)
    index.planner_data = Attack(marker)
    replace_file(folder / INDEX_FILE, pickle.dumps(index))


def _bytes_in_the_index(folder: Path, marker: Path) -> None:
    """torch reads an entry that is not a tensor as a pickle of anything."""
    index = _index(folder)
    name = next(iter(index.state_dict_metadata))
    index.state_dict_metadata[name] = BytesStorageMetadata()
    replace_file(folder / INDEX_FILE, pickle.dumps(index))


def _attack_as_a_tensor(folder: Path, marker: Path, *, zipped: bool) -> None:
    """The record of a tensor is a pickle: as torch.save makes it, or a bare one."""
    buffer = io.BytesIO()
    if zipped:
        torch.save([torch.zeros(3), Attack(marker)], buffer)
    else:
        pickle.dump(Attack(marker), buffer)
        buffer.write(b"\0" * 1000)  # as long as a record with its tensor
    index = _index(folder)
    entry = next(entry for entry in index.storage_data if entry.fqn == "master/final_norm.weight")
    old = index.storage_data[entry]
    content = (folder / old.relative_path).read_bytes()
    index.storage_data[entry] = _StorageInfo(old.relative_path, len(content), len(buffer.getvalue()))
    replace_file(folder / old.relative_path, content + buffer.getvalue())
    replace_file(folder / INDEX_FILE, pickle.dumps(index))


ATTACKS = {
    "only an attack": (_only_an_attack, ".metadata asks for posix.mkdir"),
    "in the index": (_attack_in_the_index, ".metadata asks for posix.mkdir"),
    "an entry of bytes": (_bytes_in_the_index, "asks for torch.distributed.checkpoint.metadata.BytesStorageMetadata"),
    "a tensor, zipped": (lambda *where: _attack_as_a_tensor(*where, zipped=True), "not the 128 in the index"),
    "a tensor, bare": (lambda *where: _attack_as_a_tensor(*where, zipped=False), "has no tensor at byte"),
}


def test_nothing_in_a_checkpoint_is_executed(workers: Workers, tmp_path: Path) -> None:
    workers.run(save_run, RANKS, tmp_path / "run")
    attacked, markers = [], []
    for number, (attack, _) in enumerate(ATTACKS.values()):
        attacked.append(tmp_path / str(number))
        markers.append(tmp_path / f"attack {number} was executed")
        folder = copy_run(tmp_path / "run", attacked[-1]).folder(3)
        attack(folder, markers[-1])
        adapt_manifest(folder)
    for rank, errors in enumerate(workers.run(load_all, RANKS, [*attacked, tmp_path / "run"])):
        for name, error, (_, expected) in zip(ATTACKS, errors[:-1], ATTACKS.values(), strict=True):
            assert expected in error, f"{name}, rank {rank}"
        assert errors[-1] == "", "what was not tampered with is loaded, after all that was refused"
    assert not any(marker.exists() for marker in markers)


def test_the_attack_is_one(tmp_path: Path) -> None:
    """What the other tests refuse does something where it is not refused."""
    pickle.loads(pickle.dumps(Attack(tmp_path / "made")))
    assert (tmp_path / "made").is_dir()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "builtins.getattr", "torch.load", "torch.serialization.load", "torch.Size.__new__"]
)
def test_an_index_gets_no_function(tmp_path: Path, name: str) -> None:
    """Written out, because no pickler writes such a thing: protocol 4 takes names with dots."""
    module, _, attribute = name.rpartition(".") if name != "torch.Size.__new__" else ("torch", ".", "Size.__new__")
    strings = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, attribute))
    (tmp_path / INDEX_FILE).write_bytes(b"\x80\x04" + strings + b"\x93.")
    assert pickle.loads((tmp_path / INDEX_FILE).read_bytes()) is not None
    with pytest.raises(CheckpointError, match=f"asks for {name}"):
        read_index(tmp_path, {})


def test_another_object_is_no_index(tmp_path: Path) -> None:
    for content in (MetadataIndex("w"), [1, 2], torch.Size([3])):
        (tmp_path / INDEX_FILE).write_bytes(pickle.dumps(content))
        with pytest.raises(CheckpointError, match="is not an index of a checkpoint"):
            read_index(tmp_path, {})


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80", b"\x80\x04.", b"text\n", b"\x80\x04\x8c", b"\x80\x63.", pickle.dumps(Metadata({}))[:-1], b"(" * 9],
)
def test_an_index_that_cannot_be_read_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    """It is read without a look at its hash where only sizes are verified."""
    (tmp_path / INDEX_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{INDEX_FILE} is damaged"):
        read_index(tmp_path, {})


def test_a_missing_index_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{INDEX_FILE} is damaged: FileNotFoundError"):
        read_index(tmp_path, {})
