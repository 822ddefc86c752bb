"""Starting other programs, which only this module does, and showing their commands.

A command is a list of words, and no shell ever reads it.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from unipool_dist.base.printable import printable

Process = subprocess.Popen[bytes]
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", "'": "\\'"}


@dataclass(frozen=True)
class Finished:
    """The result of a program: its exit status, negative for a signal, and its output, if that was kept."""

    status: int
    out: str = ""
    err: str = ""


def run_program(
    command: Sequence[str],
    *,
    timeout_s: float | None = None,
    directory: Path | None = None,
    variables: Mapping[str, str] | None = None,
    keep: bool = True,
) -> Finished:
    """Run ``command`` to its end.

    Args:
        timeout_s: the program is killed after this time.
        variables: its environment; ``None`` for that of this process.
        keep: return its output; otherwise it goes where this process's does.

    Raises:
        OSError: it cannot be started.
        TimeoutError: it has not ended in time.
    """
    try:
        done = subprocess.run(
            list(command), cwd=directory, env=variables, capture_output=keep, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{command[0]} has not ended within {timeout_s:g} s") from None
    return Finished(done.returncode, _text(done.stdout), _text(done.stderr))


def start_program(command: Sequence[str], *, output: IO[bytes], variables: Mapping[str, str]) -> Process:
    """Start ``command`` in its own session, without stdin; all its output goes to ``output``.

    Raises:
        OSError: it cannot be started.
    """
    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=variables,
    )


def converse_with(command: Sequence[str], variables: Mapping[str, str] | None = None) -> Process:
    """Start ``command`` with its stdin and stdout as pipes to this process.

    Args:
        variables: its environment; ``None`` for that of this process.

    Raises:
        OSError: it cannot be started.
    """
    return subprocess.Popen(
        list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=1 << 20, env=variables
    )


def _text(data: bytes | None) -> str:
    return "" if data is None else data.decode("utf-8", "replace")


def shown(words: Iterable[object]) -> str:
    """Return the command as one line that a terminal shows safely and bash parses into the same words.

    A word with control characters is written as ``$'...'``, with these escaped.
    """
    return " ".join(_shown_word(str(word)) for word in words)


def _shown_word(word: str) -> str:
    if printable(word) == word:
        return shlex.quote(word)
    return "$'" + "".join(_escaped(char) for char in word) + "'"


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if printable(char) == char:
        return char
    errors = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", errors))
