"""Checkpoints made to do harm, with manifests that fit: every command ends with an error, soon, in little memory.

What a command may open is a regular file of the folder that the manifest names; what it may allocate, what files hold.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import TensorProperties

from tests.checkpoint.command_line import call, step_folder
from tests.checkpoint.damage import copy_run, replace_file
from unipool_dist.checkpoint.index import read_index
from unipool_dist.checkpoint.manifest import MANIFEST_FILE, hash_file, read_manifest
from unipool_dist.checkpoint.progress import RandomState
from unipool_dist.checkpoint.randomness import restore_random_state
from unipool_dist.errors import CheckpointError

Make = Callable[[Path], object]
"""Makes a folder, or what is in it, hostile."""
Change = Callable[[Any], object]
"""Changes what an index says."""
STEP = 4
RECORD = {"num_bytes": 5, "xxh3_128": "0" * 32}


def seal(folder: Path, files: dict[str, Any] | None = None, **changes: Any) -> None:
    """Make a manifest that states what there is, with ``files`` beside or ``changes`` of its content."""
    old = json.loads((folder / MANIFEST_FILE).read_text())
    found = {path.name: path for path in folder.iterdir() if path.name != MANIFEST_FILE}
    regular = {name: vars(hash_file(path)) for name, path in found.items() if path.is_file() and not path.is_symlink()}
    content = {"step": old["step"], "files": regular | (files or {})} | changes
    stated = xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())
    replace_file(folder / MANIFEST_FILE, json.dumps({**content, "xxh3_128": stated}).encode())


def each(*changes: Callable[[Path], object]) -> Callable[[Path], None]:
    """All of ``changes``, one after the other."""

    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def file_more(name: str) -> Make:
    return lambda folder: seal(folder, {name: RECORD})


def instead(name: str, make: Make) -> Make:
    """``make`` something in the place of the file ``name``."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def link_to(target: str) -> Make:
    return lambda path: path.symlink_to(target)


def moved_behind_a_link(name: str) -> Make:
    def change(folder: Path) -> None:
        (folder / name).rename(folder.parents[1] / "moved")
        (folder / name).symlink_to(folder.parents[1] / "moved")

    return change


def text(content: str) -> Make:
    return lambda path: path.write_text(content)


def state(**changes: Any) -> Make:
    def change(folder: Path) -> None:
        values = json.loads((folder / "state.json").read_text())
        replace_file(folder / "state.json", json.dumps(values | changes).encode())
        seal(folder)

    return change


DEEP, DIGITS = "[" * 100_000, '{"step": ' + "9" * 5000 + "}"

NOT_WHOLE: dict[str, Make] = {
    "manifest of nothing": lambda folder: seal_only(folder, {}),
    "manifest deep": lambda folder: replace_file(folder / MANIFEST_FILE, DEEP.encode()),
    "manifest of digits": lambda folder: replace_file(folder / MANIFEST_FILE, DIGITS.encode()),
    "manifest of bytes": lambda folder: replace_file(folder / MANIFEST_FILE, bytes(range(256))),
    "manifest null": lambda folder: replace_file(folder / MANIFEST_FILE, b"null"),
    "manifest a pipe": instead(MANIFEST_FILE, os.mkfifo),
    "manifest without end": instead(MANIFEST_FILE, link_to("/dev/zero")),
    "manifest a folder": instead(MANIFEST_FILE, os.mkdir),
    "step of text": lambda folder: seal(folder, step="4; true"),
    "step a float": lambda folder: seal(folder, step=4.0),
    "step null": lambda folder: seal(folder, step=None),
    "step true": lambda folder: seal(folder, step=True),
    "size null": lambda folder: seal(folder, {"x": RECORD | {"num_bytes": None}}),
    "size text": lambda folder: seal(folder, {"x": RECORD | {"num_bytes": "x"}}),
    "size negative": lambda folder: seal(folder, {"x": RECORD | {"num_bytes": -5}}),
    "record of other fields": lambda folder: seal(folder, {"x": {"size": 5}}),
    "name outside": file_more("../../../etc/hostname"),
    "name absolute": file_more("/dev/zero"),
    "name with NUL": file_more("a\0b"),
    "name long": file_more("x" * 5000),
    "name of digits": file_more("9" * 5000),
    "name no text": file_more("a\ud800"),
    "name of control characters": file_more("\x1b[2J"),
    "name empty": file_more(""),
    "name of a folder": each(lambda folder: (folder / "sub").mkdir(), file_more("sub")),
    "name of a pipe": each(lambda folder: os.mkfifo(folder / "pipe"), file_more("pipe")),
    "name of a device": each(lambda folder: (folder / "zero").symlink_to("/dev/zero"), file_more("zero")),
    "index behind a link": moved_behind_a_link(".metadata"),
    "tensors behind a link": moved_behind_a_link("__0_0.distcp"),
    "state in a loop": instead("state.json", link_to("state.json")),
    "configuration without end": instead("config.yaml", link_to("/dev/zero")),
}
NOT_READ: dict[str, Make] = {
    "state deep": each(instead("state.json", text(DEEP)), seal),
    "state of digits": each(instead("state.json", text(DIGITS)), seal),
    "state a list": each(instead("state.json", text("[1]")), seal),
    "format of text": state(format_version="x"),
    "format later": state(format_version=99, versions=5),
    "negative step": state(step=-7),
    "another step": state(step=7),
    "step of 300 digits": state(step=10**300),
    "segments of nothing": state(data={"tokenizer_hash": "t", "content_hash": "c", "segments": [0]}),
    "segments endless": state(data={"tokenizer_hash": "t", "content_hash": "c", "segments": [1] * 20_000}),
}


def seal_only(folder: Path, files: dict[str, Any]) -> None:
    """A manifest that names ``files`` and no other."""
    content = {"step": STEP, "files": files}
    stated = xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())
    replace_file(folder / MANIFEST_FILE, json.dumps({**content, "xxh3_128": stated}).encode())


@pytest.mark.parametrize("name", [*NOT_WHOLE, *NOT_READ])
def test_what_is_no_checkpoint_is_refused_by_every_command(name: str, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder = copy_run(trained, run).folder(STEP)
    (NOT_WHOLE | NOT_READ)[name](folder)
    commands: list[tuple[object, ...]] = [("inspect", run, "--step", STEP)]
    commands += [(command, run, tmp_path / "out", "--step", STEP) for command in ("reshard", "export")]
    if name in NOT_WHOLE:
        commands.append(("verify", run, "--step", STEP))
    for command in commands:
        result = call(*command)
        known = isinstance(result.exception, CheckpointError | SystemExit)
        assert result.exit_code == 1 and known, (command[0], result.output, result.exception)
    listed = call("list", run)
    assert listed.exit_code == 0, listed.exception
    assert "whole" not in listed.stdout.splitlines()[-1], "the other checkpoint is the one before"
    assert not list(tmp_path.glob("out*/*"))


def test_a_layout_without_its_sizes_is_shown(trained: Path, tmp_path: Path) -> None:
    folder = copy_run(trained, tmp_path / "run").folder(STEP)
    state(layout={"pp": 1})(folder)
    for command in ("list", "inspect"):
        assert call(command, tmp_path / "run").exit_code == 0


@pytest.mark.parametrize(
    "random",
    [{"python": [1], "numpy": []}, {"python": [3, [1], None], "numpy": []}, {"python": [3, ["x"], 1], "numpy": [1, 2]}],
)
def test_a_state_of_generators_that_is_none(random: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="no state of random generators"):
        restore_random_state(RandomState.model_validate(random))


def index_of(folder: Path) -> Any:
    return pickle.loads((folder / ".metadata").read_bytes())


def first(index: Any) -> str:
    return next(name for name in index.state_dict_metadata if name.startswith("master/"))


def tensor(change: Change) -> Change:
    """``change`` what the index says of a tensor."""

    def make(index: Any) -> None:
        change(index.state_dict_metadata[first(index)])

    return make


def entries(change: Change) -> Change:
    return lambda index: change(index.state_dict_metadata)


def records(**changes: Any) -> Change:
    """Give all records another file, offset or length."""

    def make(index: Any) -> None:
        for key, info in index.storage_data.items():
            index.storage_data[key] = _StorageInfo(**{**vars(info), **changes})

    return make


def set_to(**values: Any) -> Change:
    return lambda thing: thing.__dict__.update(values)


def resize(tensor: Any, *sizes: int) -> None:
    tensor.size = torch.Size(sizes)
    tensor.chunks[0].sizes, tensor.chunks[0].offsets = torch.Size(sizes), torch.Size([0] * len(sizes))
    del tensor.chunks[1:]


INDICES: dict[str, Change] = {
    "no fields": lambda index: index.__dict__.clear(),
    "no tensors": set_to(state_dict_metadata=None),
    "a list of tensors": set_to(state_dict_metadata=[1, 2]),
    "no records": set_to(storage_data=None),
    "empty records": set_to(storage_data={}),
    "a name that is no text": entries(lambda tensors: tensors.update({5: next(iter(tensors.values()))})),
    "a name of control characters": entries(lambda tensors: tensors.update({"\x1b[2J": tensors.popitem()[1]})),
    "a name of a megabyte": entries(lambda tensors: tensors.update({"x" * 10**6: tensors.popitem()[1]})),
    "no chunks": tensor(set_to(chunks=[])),
    "chunks of nothing": tensor(set_to(chunks=None)),
    "size 2^50": tensor(lambda tensor: resize(tensor, 1 << 40, 1 << 10)),
    "size 10^10": tensor(lambda tensor: resize(tensor, 10**10)),
    "another size": tensor(set_to(size=torch.Size([1 << 40]))),
    "size negative": tensor(set_to(size=torch.Size([-5, 7]))),
    "size of nothing": tensor(set_to(size=None)),
    "size of text": tensor(set_to(size=("a", "b"))),
    "size of no dimension": tensor(lambda tensor: resize(tensor)),
    "no type": tensor(set_to(properties=None)),
    "a type that numpy lacks": tensor(set_to(properties=TensorProperties(dtype=torch.quint8))),
    "a type of bits": tensor(set_to(properties=TensorProperties(dtype=torch.bits16))),
    "an absolute file": records(relative_path="/etc/passwd"),
    "a file outside": records(relative_path="../step-00000002/__0_0.distcp"),
    "a device": records(relative_path="/dev/zero"),
    "a file with NUL": records(relative_path="a\0b"),
    "no file": records(relative_path=None),
    "a file that the manifest lacks": records(relative_path="unlisted.distcp"),
    "one record for all": records(relative_path="__0_0.distcp", offset=0),
    "negative offsets": records(offset=-1),
    "huge offsets": records(offset=1 << 61),
    "huge lengths": records(length=1 << 50),
    "offsets of text": records(offset="x"),
}


@pytest.mark.parametrize("name", INDICES)
def test_an_index_that_does_not_fit_the_files_is_refused(name: str, trained: Path, tmp_path: Path) -> None:
    folder = copy_run(trained, tmp_path / "run").folder(STEP)
    index = index_of(folder)
    INDICES[name](index)
    replace_file(folder / ".metadata", pickle.dumps(index))
    (folder / "unlisted.distcp").write_bytes((folder / "__0_0.distcp").read_bytes())
    files = read_manifest(folder).files
    with pytest.raises(CheckpointError, match=r"\.metadata is (not an index|damaged)"):
        read_index(folder, files | {".metadata": hash_file(folder / ".metadata")})


BOMBS = {
    "a memo of 2^28": b"Nr" + struct.pack("<I", 1 << 28) + b".",
    "a memo of 2^31 in text": b"Np2147483647\n.",
    "bytes of 2^40": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    "text of 2^40": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b".",
    "text of 2^31": b"\x80\x04X" + struct.pack("<I", (1 << 31) - 1) + b".",
    "a frame of 2^40": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
    "a number of 200,000 digits": b"I" + b"9" * 200_000 + b"\n.",
    "200,000 lists in each other": b"]" * 200_000 + b"a" * 199_999 + b".",
    "an extension": b"\x82\x01.",
    "a persistent id": b"Pposix\n.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_an_index_claims_is_not_allocated(name: str, tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(BOMBS[name])
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"\.metadata is (not an index|damaged)"):
            read_index(tmp_path, {})
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_an_index_changes_nothing_in_torch(trained: Path, tmp_path: Path) -> None:
    """BUILD on a class sets its attributes, for the whole process."""
    module, name = b"torch.distributed.checkpoint.metadata", b"TensorStorageMetadata"
    strings = b"".join(b"\x8c" + bytes([len(part)]) + part for part in (module, name))
    attack = b"\x80\x04" + strings + b"\x93N}\x8c\x07hostile\x8c\x05owneds\x86b."
    before = dict(vars(pickle.loads(b"\x80\x04" + strings + b"\x93.")))
    (tmp_path / ".metadata").write_bytes(attack)
    with pytest.raises(CheckpointError):
        read_index(tmp_path, {})
    assert dict(vars(pickle.loads(b"\x80\x04" + strings + b"\x93."))) == before


def test_a_good_index_is_read_as_torch_does(trained: Path) -> None:
    folder = step_folder(trained, STEP)
    found, expected = read_index(folder, read_manifest(folder).files), index_of(folder)
    assert found.state_dict_metadata == expected.state_dict_metadata
    assert found.storage_data == expected.storage_data
