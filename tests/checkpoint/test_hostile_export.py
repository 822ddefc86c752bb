"""Exported models made to do harm: ``checkpoint import`` refuses them, opens no file elsewhere and leaves nothing."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint.command_line import call, succeed
from unipool_dist.checkpoint.manifest import hash_file
from unipool_dist.errors import CheckpointError

WEIGHTS = "model.safetensors"
RECORD = {"num_bytes": 5, "xxh3_128": "0" * 32}


def record(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """``change`` export.json."""

    def make(folder: Path) -> None:
        values = json.loads((folder / "export.json").read_text())
        change(values)
        (folder / "export.json").write_text(json.dumps(values))

    return make


def file_more(name: str) -> Callable[[Path], None]:
    return record(lambda values: values["files"].update({name: RECORD}))


def each(*changes: Callable[[Path], object]) -> Callable[[Path], None]:
    """All of ``changes``, one after the other."""

    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def text(content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "export.json").write_text(content)


def instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def weights(content: bytes) -> Callable[[Path], None]:
    """Weights of this content, of the size and hash that the record states."""

    def change(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(content)
        record(lambda values: values["files"].update({WEIGHTS: vars(hash_file(folder / WEIGHTS))}))(folder)

    return change


def weights_outside(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "outside.safetensors")
    stated = vars(hash_file(folder.parent / "outside.safetensors"))
    record(lambda values: values.update(files={"../outside.safetensors": stated}))(folder)


def weights_behind_a_link(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "moved")
    (folder / WEIGHTS).symlink_to(folder.parent / "moved")


def a_pipe_more(folder: Path) -> None:
    os.mkfifo(folder / "pipe.safetensors")
    file_more("pipe.safetensors")(folder)


def configured(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / "config.yaml").read_text()
        assert old in content
        (folder / "config.yaml").write_text(content.replace(old, new))

    return change


class Attack:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


EXPORTS: dict[str, Callable[[Path], object]] = {
    "weights outside": weights_outside,
    "weights behind a link": weights_behind_a_link,
    "weights in a loop": instead(WEIGHTS, lambda path: path.symlink_to(WEIGHTS)),
    "an absolute file": file_more("/dev/zero"),
    "a pipe": a_pipe_more,
    "NUL": file_more("a\0b"),
    "a folder": each(lambda folder: (folder / "sub").mkdir(), file_more("sub")),
    "control characters": file_more("\x1b[2J"),
    "no files": record(lambda values: values.update(files={})),
    "tokenizer outside": record(lambda values: values.update(tokenizer_files=["../x"])),
    "a negative size": record(lambda values: values["files"][WEIGHTS].update(num_bytes=-1)),
    "format of text": record(lambda values: values.update(format_version="x")),
    "format later": record(lambda values: values.update(format_version=99)),
    "a list": text("[]"),
    "deep": text("[" * 100_000),
    "digits": text('{"step": ' + "9" * 5000 + "}"),
    "a record that is a pipe": instead("export.json", os.mkfifo),
    "a record without end": instead("export.json", lambda path: path.symlink_to("/dev/zero")),
    "a pickle": weights(pickle.dumps(Attack())),
    "a header of 2^63": weights(b"\xff" * 7 + b"\x7f" + b"{}"),
    "a deep header": weights((200_000).to_bytes(8, "little") + b"[" * 100_000 + b"]" * 100_000),
    "a configuration without end": instead("config.yaml", lambda path: path.symlink_to("/dev/zero")),
    "layers without end": configured("num_layers: 4", "num_layers: 100000000"),
    "experts without end": configured("num_experts: 16", "num_experts: 10000000000000"),
    "a width without end": configured("hidden_size: 32", "hidden_size: 100000000000000"),
}


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "export"
    succeed("export", trained, out)
    return out


@pytest.mark.parametrize("name", EXPORTS)
def test_what_is_no_export_is_refused(
    name: str, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "export"
    folder.mkdir()
    for path in exported.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    EXPORTS[name](folder)
    result = call("import", folder, tmp_path / "run")
    assert isinstance(result.exception, CheckpointError), (result.output, result.exception)
    assert not list(tmp_path.glob("run/checkpoints")) and not (tmp_path / "executed").exists()
