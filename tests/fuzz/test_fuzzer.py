"""The fuzzer sees what it looks for; one that cannot proves nothing by finding nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import forked
from tests.fuzz.forked import call
from tests.fuzz.inputs import drawn
from tests.fuzz.place import SECRET, Place
from tests.fuzz.runner import Tried
from tests.fuzz.table import causes, table
from tests.fuzz.verdict import faults
from unipool_dist.errors import UnipoolError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    place = Place(tmp_path / "place")
    place.clear()
    return place


def _hang() -> None:
    while True:
        time.sleep(1)


def _turn() -> None:
    while True:
        pass


def _leave_a_process() -> None:
    if os.fork() == 0:
        time.sleep(60)


def misbehaviours(place: Place) -> dict[str, tuple[Callable[[], object], str]]:
    """By name, what a command might do, and how the fuzzer calls it."""
    return {
        "an exception": (lambda: 1 / 0, "traceback: ZeroDivisionError"),
        "an error for the user that is not caught": (lambda: _raise(UnipoolError("x")), "traceback"),
        "another status": (lambda: sys.exit(3), "exit status 3"),
        "no word": (lambda: sys.exit(1), "refused without a word"),
        "many words": (lambda: sys.exit("x" * 30_000), "a refusal of 30,002 characters"),
        "a signal": (lambda: os.kill(os.getpid(), signal.SIGTERM), "ended by SIGTERM"),
        "a wait": (_hang, "hangs: 2 s"),
        "a loop": (_turn, "hangs: 1 s of CPU"),
        "memory": (lambda: bytearray(3 << 30), "memory above 1024 MiB"),
        "a control character": (lambda: print("\x1b[2J"), r"control characters: \x1b[2J"),
        "no UTF-8": (lambda: os.write(1, b"\xff"), "control characters"),
        "a process": (_leave_a_process, "left a process behind"),
        "a program": (lambda: os.system("true"), "EXECUTED: os.system"),
        "another program": (lambda: subprocess.run(["true"], check=False), "EXECUTED: subprocess.Popen"),
        "a look outside": (lambda: (place.outside / "thesis.tex").open(), "opened outside its folder"),
        "the content of it": (lambda: print(SECRET), "the content of a file outside came out"),
        "a file elsewhere": (lambda: (place.folder.parent / "x").write_text(""), "wrote outside its folder"),
        "a deletion outside": (
            lambda: (place.outside / "thesis.tex").unlink(),
            "changed outside its folder: os.remove",
        ),
    }


@pytest.mark.parametrize("name", misbehaviours(Place(Path("/"))))
def test_the_fuzzer_sees(name: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "WALL_LIMIT_S", 2 if name == "a wait" else 60)
    monkeypatch.setattr(forked, "CPU_LIMIT_S", 1 if name == "a loop" else 60)
    work, expected = misbehaviours(place)[name]
    found = faults(call(work, place))
    assert any(fault.startswith(expected) for fault in found), found


def test_what_is_as_it_should_be_has_no_fault(place: Place) -> None:
    assert faults(call(lambda: print("fine"), place)) == []
    assert faults(call(lambda: sys.exit("error: no"), place)) == []
    (place.folder / "made").write_text("")
    assert place.faults() == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda place: place.canary.write_text(""), "EXECUTED"),
        (lambda place: (place.outside / "thesis.tex").write_text("mine"), "touched outside its folder: thesis.tex"),
        (lambda place: (place.outside / "new").mkdir(), "touched outside its folder: new"),
        (lambda place: (place.temporary / "left").mkdir(), "left in the temporary folder: left"),
    ],
)
def test_what_is_changed_outside_is_seen_and_undone(
    change: Callable[[Place], object], expected: str, place: Place
) -> None:
    change(place)
    assert any(fault.startswith(expected) for fault in place.faults())
    place.clear()
    assert place.faults() == []


def test_an_input_can_be_had_again() -> None:
    assert drawn("corpora", 7, 3).random() == drawn("corpora", 7, 3).random() != drawn("corpora", 7, 4).random()


def test_what_has_failed_is_told_by_cause_with_a_command_for_it() -> None:
    tried = [
        Tried(
            "corpora", number, "what", [f"train: traceback: KeyError: {number}"] if number else [], not number, 1.0, 0
        )
        for number in range(3)
    ]
    assert table(tried)[-1].split()[:5] == ["total", "3", "1", "0", "2"]
    said = causes(tried, 7)
    assert said.startswith("2 x corpora: train: traceback: KeyError: N\n")
    assert "make fuzz FUZZ_ARGS='--class corpora --seed 7 --only 2'" in said
    assert causes(tried[:1], 7) == ""


def _raise(error: Exception) -> None:
    raise error
