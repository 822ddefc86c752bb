"""Progress bars on stderr, where someone watches; silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from unipool_dist.base.printable import printable

T = TypeVar("T")


class Progress:
    """Bars if ``show``, or if it is ``None`` and stderr is a terminal. Standard output is never written to."""

    def __init__(self, show: bool | None = None) -> None:
        self.show = sys.stderr.isatty() if show is None else show

    def over(self, items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
        """``items``, counted under the name ``what``."""
        from tqdm import tqdm

        name = f"{printable(what):<24}"
        yield from tqdm(items, desc=name, total=total, unit=unit, disable=not self.show, file=sys.stderr)
