"""Count what was read of a source and what became of it; stop at too many bad rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import get_args

from unipool_dist.base.printable import listed, short
from unipool_dist.base.rows.frames import Reason
from unipool_dist.data.documents import Document
from unipool_dist.data.sources.base import Problem, Row, Unit
from unipool_dist.errors import DataError

EXAMPLES = 3
"""Places named for each reason."""
MAX_EXAMPLE = 200


@dataclass(frozen=True)
class Reading:
    """Options of reading. ``max_bad_rows``: rows of a source that may be no documents, ``None`` for any number."""

    max_bad_rows: int | None = None
    dedup: bool = True


@dataclass
class Tally:
    """Rows read, and for every reason the number of rows dropped and the places of the first ``EXAMPLES``.

    Plain data: that of a unit can be pickled or written as JSON (``dataclasses.asdict``), and those of several units
    are added up in the order of the units.
    """

    read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def bad(self) -> int:
        """Rows without a usable text, empty and duplicate documents not among them."""
        return sum(self.dropped.get(reason, 0) for reason in get_args(Reason))

    def documents(self, units: Sequence[Unit], domain: str, max_bad: int | None) -> Iterator[Document]:
        """Yield the documents of all units, and count rows and problems.

        Raises:
            DataError: a unit cannot be read; there are more than ``max_bad`` bad rows; no row has a text.
        """
        for unit in units:
            for row in unit.rows():
                self.note(row)
                if isinstance(row, Document):
                    yield row
                elif max_bad is not None and self.bad > max_bad:
                    self.check(domain, max_bad)
        self.check(domain, max_bad)

    def note(self, row: Row) -> None:
        """Count a row that was read."""
        self.read += 1
        if isinstance(row, Problem):
            self.drop(row.reason, f"{row.place} {row.detail}")

    def drop(self, reason: str, example: str) -> None:
        """Count a row that is dropped."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(short(example, MAX_EXAMPLE))

    def add(self, later: Tally) -> None:
        """Add the counts of a later unit of the same source."""
        self.read += later.read
        for reason, number in later.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + number
        for reason, examples in later.examples.items():
            mine = self.examples.setdefault(reason, [])
            mine += examples[: EXAMPLES - len(mine)]

    def check(self, domain: str, max_bad: int | None) -> None:
        """Refuse more than ``max_bad`` bad rows (``None``: any number), and a source of nothing else.

        Raises:
            DataError: there are more, and the message names the first ones; or no row has a text.
        """
        if self.read == 0:
            raise DataError(f"--source {domain} is empty: its files have no rows")
        shown = listed(example for reason in get_args(Reason) for example in self.examples.get(reason, ()))
        if self.bad == self.read:
            raise DataError(f"--source {domain}: none of {self.read:,} rows has a text:\n{shown}")
        if max_bad is not None and self.bad > max_bad:
            limit = "--bad-rows fail" if max_bad == 0 else f"--bad-rows {max_bad}"
            raise DataError(
                f"--source {domain}: {self.bad:,} of the first {self.read:,} rows have no text, more than {limit} "
                f"allows; mend them, or drop and count them with --bad-rows skip:\n{shown}"
            )
