"""Which part of the work one of several preparations of a corpus does, each a task of a job array, for example."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from unipool_dist.errors import DataError

T = TypeVar("T")
MAX_SHARES = 10_000


@dataclass(frozen=True)
class Share:
    """Share ``index`` of ``count``, from 0; all shares together are the whole work, and none overlap."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """Parse ``i/n``.

        Raises:
            DataError: it is not of that form, or ``i`` is not in ``[0, n)``.
        """
        match = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text)
        index, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 0 <= index < count <= MAX_SHARES:
            raise DataError(f"--shard {text:.100} is not I/N with 0 <= I < N <= {MAX_SHARES:,}: the first of 8 is 0/8")
        return cls(index, count)

    @property
    def is_all(self) -> bool:
        """Whether this is the whole work."""
        return self.count == 1

    def of(self, things: Sequence[T], size: Callable[[T], int]) -> list[T]:
        """Return this share of ``things``, in their order: the largest first, each goes to the share with the least."""
        shares = [(0, index) for index in range(self.count)]
        mine = []
        for i in sorted(range(len(things)), key=lambda i: (-size(things[i]), i)):
            taken, index = heapq.heappop(shares)
            heapq.heappush(shares, (taken + max(size(things[i]), 1), index))
            if index == self.index:
                mine.append(i)
        return [things[i] for i in sorted(mine)]
