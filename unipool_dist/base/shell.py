"""Quoting for a shell: values in scripts, and commands shown to people."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from unipool_dist.base.printable import printable

_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", "'": "\\'"}


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
