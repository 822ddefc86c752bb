"""Count what was read of a source and what became of it; stop at too many bad rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from unipool_dist.base.printable import listed
from unipool_dist.data.sources.base import Problem, Row
from unipool_dist.errors import DataError

EXAMPLES = 3
"""Places named for each reason."""


@dataclass
class Tally:
    """Rows read, and for every reason the number of rows dropped and the places of the first ``EXAMPLES``.

    Plain data: that of a unit can be pickled or written as JSON (``dataclasses.asdict``), and those of several units
    are added up in the order of the units.
    """

    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dropped = Counter(self.dropped)  # a dictionary, if it was JSON

    def note(self, row: Row) -> None:
        """Count a row that was read."""
        self.read += 1
        if isinstance(row, Problem):
            self.drop(row.reason, f"{row.place} {row.detail}")

    def drop(self, reason: str, example: str) -> None:
        """Count a row that is dropped."""
        self.dropped[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(example)

    def add(self, later: Tally) -> None:
        """Add the counts of a later unit of the same source."""
        self.read += later.read
        self.dropped.update(later.dropped)
        for reason, examples in later.examples.items():
            mine = self.examples.setdefault(reason, [])
            mine += examples[: EXAMPLES - len(mine)]

    def check(self, domain: str, max_bad: int | None) -> None:
        """Refuse more than ``max_bad`` dropped rows (``None``: any number), and a source of nothing else.

        Call it before empty and duplicate documents are counted, whose number has no limit.

        Raises:
            DataError: there are more; the message names the first ones.
        """
        bad = self.dropped.total()
        shown = listed(example for examples in self.examples.values() for example in examples)
        if bad and bad == self.read:
            raise DataError(f"--source {domain}: none of {bad:,} rows has a text:\n{shown}")
        if max_bad is not None and bad > max_bad:
            how = "--bad-rows skip drops and counts them" if max_bad == 0 else "raise --bad-rows, or mend them"
            raise DataError(f"--source {domain}: {bad:,} of {self.read:,} rows have no text; {how}:\n{shown}")
