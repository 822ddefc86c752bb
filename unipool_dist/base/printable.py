"""Text from untrusted files and names, made safe to show on a terminal, in a log or on a page."""

from __future__ import annotations

import unicodedata
from collections.abc import Container, Iterable, Sequence

_KEPT = "\n\t"
_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")  # controls, lone surrogates, separators of lines and of paragraphs


def printable(text: object, *, lines: bool = False) -> str:
    r"""Return ``text`` with every control character escaped as in Python (``\x1b``).

    Escaped are controls, characters that change the direction of text, and lone surrogates, which cannot be encoded.
    Everything else, in any script, stays.

    Args:
        lines: keep newlines and tabs.
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
    """Return ``text`` with its newlines, cut to ``max_chars`` characters with a note, as an error may quote much."""
    if len(text) <= max_chars:
        return text
    return f"{text[:max_chars]}... and {len(text) - max_chars:,} characters more"


def listed(lines: Iterable[str], *, at_most: int = 20) -> str:
    """Return the distinct ``lines``, one per line, indented and :func:`short`; only the first ones of very many."""
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


def aligned(rows: Sequence[Sequence[str]], right: Container[int] = ()) -> list[str]:
    """Return the cells of ``rows`` as lines in columns, those numbered in ``right`` right-aligned.

    Newlines in a cell are escaped like other control characters: a name must not look like a separate row.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
