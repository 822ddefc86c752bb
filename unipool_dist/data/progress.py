"""Progress bars on stderr, if it is a terminal; silence otherwise."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from unipool_dist.base.printable import printable

T = TypeVar("T")


class Progress:
    """Factory of progress bars, shown if ``show``, or if it is ``None`` and stderr is a terminal. Never uses stdout."""

    def __init__(self, show: bool | None = None) -> None:
        self.show = sys.stderr.isatty() if show is None else show

    def over(self, items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
        """Yield ``items``, counted under the name ``what``."""
        from tqdm import tqdm

        name = f"{printable(what):<24}"
        yield from tqdm(items, desc=name, total=total, unit=unit, disable=not self.show, file=sys.stderr)
