"""Progress of long work: bars on stderr if it is a terminal, silence otherwise. Standard output is never used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from unipool_dist.base.printable import printable

T = TypeVar("T")
Count = Callable[[int], None]
"""Called with the number of bytes, or of other units of the bar, that were done since the last call."""
Bar = Callable[[str, int], AbstractContextManager[Count]]
"""``with bar("verifying", total) as count`` shows the progress of a part of the work."""


def uncounted(done: int) -> None:
    """Ignore the progress."""


@contextmanager
def no_bar(what: str, total: int) -> Iterator[Count]:
    """Show nothing."""
    yield uncounted


@contextmanager
def count_bar(what: str, total: int, unit: str, *, show: bool) -> Iterator[Count]:
    """Show a bar of ``total`` units, if ``show``."""
    from tqdm import tqdm

    hidden = not (show and sys.stderr.isatty())
    with tqdm(total=total, desc=printable(what), unit=f" {unit}", disable=hidden, file=sys.stderr) as bar:
        yield lambda done: bar.update(done)


@contextmanager
def byte_bar(what: str, total: int) -> Iterator[Count]:
    """Show a bar of ``total`` bytes."""
    from tqdm import tqdm

    hidden = not sys.stderr.isatty()
    with tqdm(total=total, desc=printable(what), unit="B", unit_scale=True, disable=hidden, file=sys.stderr) as bar:
        yield lambda num_bytes: bar.update(num_bytes)


class Progress:
    """Bars over items, shown if ``show``, or if it is ``None`` and stderr is a terminal."""

    def __init__(self, show: bool | None = None) -> None:
        self.show = sys.stderr.isatty() if show is None else show

    def over(self, items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
        """Yield ``items``, counted under the name ``what``."""
        from tqdm import tqdm

        name = f"{printable(what):<24}"
        yield from tqdm(items, desc=name, total=total, unit=unit, disable=not self.show, file=sys.stderr)
