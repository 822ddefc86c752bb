"""What the operating system refuses ends any command with one line that names the place, and no traceback."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.unprivileged import modes_count
from unipool_dist.comm.environment import read_environment
from unipool_dist.config import Config
from unipool_dist.run import ending

COMMANDS = {
    "checkpoint list": ("checkpoint", "list", "{run}"),
    "checkpoint verify": ("checkpoint", "verify", "{run}"),
    "checkpoint inspect": ("checkpoint", "inspect", "{run}"),
    "checkpoint reshard": ("checkpoint", "reshard", "{run}", "{new}"),
    "checkpoint export": ("checkpoint", "export", "{run}", "{new}"),
    "checkpoint import": ("checkpoint", "import", "{run}", "{new}"),
    "data show": ("data", "show", "{run}"),
    "data prepare": ("data", "prepare", "{new}", "--source=a={text}", "--vocab-size=300"),
    "train": ("train", "{config}", "run.dir={new}", "--nproc=1"),
    "model": ("model", "{run}/config.yaml"),
    "status": ("status", "{run}"),
    "report": ("report", "{run}"),
    "experiment": ("experiment", "{run}/experiment.yaml"),
    "submit": ("submit", "{run}/c.yaml", "--nodes=1", "--tasks-per-node=1", "--time=60"),
    "submit --resume": ("submit", "--resume", "{run}"),
    "submit --profile": (
        *("submit", "{config}", "--nodes=1", "--tasks-per-node=1", "--time=60"),
        *("run.dir={run}", "--profile={run}/profile.yaml"),
    ),
    "eval": ("eval", "{run}", "--nproc=1"),
    "generate": ("generate", "{run}", "--prompt=x", "--nproc=1"),
    "probe": ("probe", "{run}", "--nproc=1"),
}


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A folder that is closed to all; what is in it, and a text and a configuration elsewhere."""
    closed = tmp_path / "closed"
    (closed / "run").mkdir(parents=True)
    (tmp_path / "a.txt").write_text("some words\n\n" * 50)
    (tmp_path / "c.yaml").write_text("model: {num_layers: 2}\n")
    yield {
        "run": str(closed / "run"),
        "new": str(closed / "new"),
        "text": str(tmp_path / "a.txt"),
        "config": str(tmp_path / "c.yaml"),
        "closed": str(closed),
    }
    closed.chmod(0o700)


@pytest.mark.parametrize("mode", [0o000, 0o600], ids=["closed", "without search"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_closed_folder(unipool_dist: Command, places: dict[str, str], command: str, mode: int) -> None:
    Path(places["closed"]).chmod(mode)
    with modes_count():
        ended = unipool_dist(*(part.format(**places) for part in COMMANDS[command]))
    assert ended.status in (1, 2), ended.err
    assert places["closed"] in ended.err and "Permission denied" in ended.err, ended.err


def test_a_source_that_is_closed(unipool_dist: Command, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("words\n")
    (texts / "a.txt").chmod(0)
    with modes_count():
        ended = unipool_dist("data", "prepare", tmp_path / "out", f"--source=a={texts}")
    assert ended.status == 1 and "a.txt" in ended.err and "Permission denied" in ended.err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_may_be_read_and_not_written(unipool_dist: Command, places: dict[str, str]) -> None:
    Path(places["closed"]).chmod(0o500)
    with modes_count():
        prepared = unipool_dist(*(part.format(**places) for part in COMMANDS["data prepare"]))
        trained = unipool_dist(*(part.format(**places) for part in COMMANDS["train"]))
    for ended in (prepared, trained):
        assert ended.status == 1 and places["closed"] in ended.err and "Permission denied" in ended.err, ended.err


@pytest.mark.parametrize("name", ["n" * 300, "loop/x", "a.txt/x"])
@pytest.mark.parametrize("command", ["checkpoint list", "data show", "status", "model", "report", "train"])
def test_names_that_no_file_can_have(
    unipool_dist: Command, tmp_path: Path, places: dict[str, str], command: str, name: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    places |= {"run": str(tmp_path / name), "new": str(tmp_path / name)}
    ended = unipool_dist(*(part.format(**places) for part in COMMANDS[command]))
    assert ended.status in (1, 2) and ended.err.startswith("error: ") and len(ended.err) < 2000, ended.err


@pytest.mark.parametrize("text", ["caf\udce9", "a\udcffb", "\udc80"])
@pytest.mark.parametrize(
    "arguments",
    [("generate", "run", "--prompt={}"), ("train", "c.yaml", "run.dir={}"), ("submit", "c.yaml", "--name={}"), ("{}",)],
)
def test_arguments_that_are_no_utf8(unipool_dist: Command, text: str, arguments: tuple[str, ...]) -> None:
    ended = unipool_dist(*(argument.format(text) for argument in arguments))
    assert ended.status == 2 and "is not UTF-8" in ended.err
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    assert shown in ended.err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/a/config.yaml"), "runs/a/config.yaml: No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/a"), "runs/a: Permission denied"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "ulimit -n"),
        (ConnectionResetError(errno.ECONNRESET, "reset by peer"), "lost the other processes"),
    ],
)
def test_a_rank_ends_with_the_sentence(monkeypatch: pytest.MonkeyPatch, error: OSError, said: str) -> None:
    lines: list[str] = []
    monkeypatch.setattr(ending, "_stop", lambda environment, message: lines.append(message))
    with ending.ending_clearly(read_environment({}), Config()):
        _raise(error)
    assert len(lines) == 1 and said in lines[0]


def _raise(error: Exception) -> None:
    raise error


def test_runs_of_others_are_left_out_of_a_list(
    unipool_dist: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run keeps of its user's environment is readable by him alone; a list of all runs goes on without it."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "theirs"):
        (tmp_path / "runs" / name / "job").mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").write_text("{}\n")
    (tmp_path / "runs/theirs/job/job.json").write_text("{}")
    (tmp_path / "runs/theirs/job/job.json").chmod(0)
    with modes_count():
        every = unipool_dist("status")
        one = unipool_dist("status", "runs/theirs")
    assert every.status == 0 and "runs/mine" in every.out and "runs/theirs" in every.err
    assert one.status == 1 and "job.json: Permission denied" in one.err
