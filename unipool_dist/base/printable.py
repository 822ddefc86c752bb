"""Text from files and names, made safe to show on a terminal, in a log or on a page."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_KEPT = "\n\t"
_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")  # controls, lone surrogates, separators of lines and of paragraphs


def printable(text: object, *, lines: bool = False) -> str:
    r"""Return ``text`` with every control character escaped, as ``\x1b`` is written in Python.

    Escaped are controls, characters that change the direction of text, and lone surrogates, which no encoding can
    write. Everything else, in any script, stays.

    Args:
        lines: keep line ends and tabs.
    """
    text = str(text)
    if text.isprintable() and text.isascii():
        return text
    return "".join(_shown(char, lines) for char in text)


def short(text: object, max_chars: int = 200) -> str:
    """Return ``text`` as :func:`printable` does, cut to ``max_chars`` characters."""
    whole = str(text)
    shown = printable(whole[: max_chars + 1])
    return shown if len(shown) <= max_chars else f"{shown[: max_chars - 3]}..."


def bounded(text: str, max_chars: int = 10_000) -> str:
    """Return ``text`` with its lines, cut to ``max_chars`` characters and told so: an error may repeat what it read."""
    if len(text) <= max_chars:
        return text
    return f"{text[:max_chars]}... and {len(text) - max_chars:,} characters more"


def listed(lines: Iterable[str], *, at_most: int = 20) -> str:
    """Return different ``lines`` below each other, indented, each made :func:`short`; of very many the first ones."""
    distinct = list(dict.fromkeys(lines))
    shown = [short(line, 300) for line in distinct[:at_most]]
    if len(distinct) > at_most:
        shown.append(f"and {len(distinct) - at_most:,} more")
    return "\n".join(f"  {line}" for line in shown)


def _shown(char: str, lines: bool) -> str:
    if char.isprintable() or (lines and char in _KEPT):
        return char
    if char in _DIRECTION or unicodedata.category(char) in _CATEGORIES:
        return char.encode("unicode_escape").decode("ascii")
    return char
