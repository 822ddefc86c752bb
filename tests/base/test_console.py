"""What is printed is escaped, whatever the console's encoding; and a console that is gone ends nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest

from unipool_dist.base.console import put, say
from unipool_dist.base.printable import aligned

WILD = "\x1b[2J\x1b]0;owned\x07 \x9b31m \r over \x08 \x7f \u202e back \u2028 \ud800 \x00"
SHOWN = r"\x1b[2J\x1b]0;owned\x07 \x9b31m \r over \x08 \x7f \u202e back \u2028 \ud800 \x00"
WRITERS = """
import atexit, logging, os, sys, warnings
from pathlib import Path
from unipool_dist.base.console import guard_streams, lost, say, say_at_once
guard_streams()
from tqdm import tqdm
atexit.register(lambda: say("\\udc80 the end"))
for number in tqdm(range(3), file=sys.stderr, mininterval=0):
    print("print", number)
    say(f"say {number}")
    say(f"say {number}", err=True)
    say_at_once("at once")
    logging.getLogger("library").warning("logged")
    warnings.warn(f"warned {number}", stacklevel=1)
    sys.excepthook(ValueError, ValueError("raised"), None)
open(sys.argv[1], "w").write("went on")
os.system("echo words of a child")
say("x" * 100_000)
"""
"""As libraries write, and ourselves; then into a file of its own, which must hold that alone."""


def test_controls_are_escaped_and_text_of_any_script_stays(capsys: pytest.CaptureFixture[str]) -> None:
    say(WILD)
    say(WILD, err=True)
    say("línea\nこれ\t三 ∑ 🎲")
    out, err = capsys.readouterr()
    assert (out, err) == (f"{SHOWN}\nlínea\nこれ\t三 ∑ 🎲\n", f"{SHOWN}\n")


def test_a_line_end_in_a_cell_makes_no_row() -> None:
    assert aligned([("name", "state"), ("run\nother", "\x1bgood")]) == ["name        state", r"run\nother  \x1bgood"]


class _Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "expected"), [(StringIO, "a\x1bb\n\t"), (_Terminal, "a\\x1bb\n\t")])
def test_a_document_is_escaped_for_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, stream: type[StringIO], expected: str
) -> None:
    monkeypatch.setattr(sys, "stdout", stream())
    put("a\x1bb\n\t")
    assert isinstance(sys.stdout, StringIO) and sys.stdout.getvalue() == expected


def _closed_pipe() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


def _full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def _terminal_that_is_gone() -> int:
    near, far = os.openpty()
    os.close(near)
    return far


@pytest.mark.parametrize("options", [(), ("-u",)])
@pytest.mark.parametrize("opened", [_closed_pipe, _full_disk, _terminal_that_is_gone, None])
def test_a_console_that_is_gone_ends_nothing(
    tmp_path: Path, opened: Callable[[], int] | None, options: tuple[str, ...]
) -> None:
    """Of the two streams either, or both; ``None``: closed before the program began."""
    for number, gone in enumerate(((1,), (2,), (1, 2))):
        into = tmp_path / str(number)
        command = [sys.executable, *options, "-c", WRITERS, str(into)]
        shell = "exec " + "".join(f"{each}>&- " for each in gone) + '"$@"' if opened is None else 'exec "$@"'
        output = opened() if opened is not None else subprocess.DEVNULL
        streams = {name: output if each in gone else subprocess.PIPE for each, name in ((1, "stdout"), (2, "stderr"))}
        done = subprocess.run(["sh", "-c", shell, "sh", *command], check=False, timeout=60, **streams)  # type: ignore[call-overload]
        if opened is not None:
            os.close(output)
        assert done.returncode == 0
        assert into.read_text() == "went on", "what was printed is in a file of the program's own"
        if 2 not in gone:
            assert b"say 2" in done.stderr and b"OSError" not in done.stderr and b"ignored" not in done.stderr
        if 1 not in gone:
            assert b"say 2" in done.stdout and done.stdout.endswith(b"x\n\\udc80 the end\n")


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ({"PYTHONIOENCODING": "ascii"}, rb"\xfc \u2013 \U0001f3b2 \udc80"),
        ({"PYTHONIOENCODING": "latin-1:strict"}, b"\xfc \\u2013 \\U0001f3b2 \\udc80"),
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, rb"\xfc \u2013 \U0001f3b2 \udc80"),
        ({"LC_ALL": "C"}, "ü \u2013 🎲 ".encode() + rb"\udc80"),
    ],
)
def test_what_an_encoding_cannot_say_is_escaped(encoding: dict[str, str], expected: bytes) -> None:
    script = "from unipool_dist.base.console import guard_streams, say; guard_streams(); "
    script += r"say('\xfc \u2013 \U0001f3b2 \udc80'); print('\u2013', '\udc80')"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONUTF8", "PYTHONIOENCODING")}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, timeout=60, env={**environment, **encoding}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines()[0] == expected


def _status(stdout: int, run: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "unipool_dist", "status", str(run)]
    done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(stdout)
    return done.returncode, done.stderr


def test_a_command_whose_reader_is_gone_ends_quietly_and_one_on_a_full_disk_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    assert _status(_closed_pipe(), tmp_path) == (0, "")
    assert _status(_terminal_that_is_gone(), tmp_path) == (0, "")
    status, said = _status(_full_disk(), tmp_path)
    assert status == 1 and said.startswith("error: standard output could not be written: No space left on device")


def test_wrong_usage_is_escaped_too() -> None:
    command = [sys.executable, "-m", "unipool_dist", "status", "--\x1b[2J"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and r"No such option '--\x1b[2J'" in done.stderr and "\x1b" not in done.stderr
