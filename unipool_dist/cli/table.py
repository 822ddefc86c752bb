"""Text in columns."""

from __future__ import annotations

from collections.abc import Container, Sequence

from unipool_dist.base.printable import printable


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
