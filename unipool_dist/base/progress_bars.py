"""Progress of long work: bars on stderr if it is a terminal, silence otherwise. Standard output is never used."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from unipool_dist.base.console import say
from unipool_dist.base.printable import printable
from unipool_dist.base.units import duration, size

T = TypeVar("T")
LINE_EVERY_S = 30.0
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
    """Bars, shown if ``show``, or if it is ``None`` and stderr is a terminal; elsewhere a line now and then."""

    def __init__(self, show: bool | None = None) -> None:
        self.show = sys.stderr.isatty() if show is None else show

    def over(self, items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
        """Yield ``items``, counted under the name ``what``."""
        from tqdm import tqdm

        name = f"{printable(what):<24}"
        yield from tqdm(items, desc=name, total=total, unit=unit, disable=not self.show, file=sys.stderr)

    @contextmanager
    def bytes(self, what: str, total: int | None, done: int = 0) -> Iterator[Count]:
        """Show how many of ``total`` bytes are done, the speed and the time left; ``done`` of them were at the start.

        Without a ``total`` there is no time left.
        """
        if self.show and not sys.stderr.isatty():
            with _lines(what, total, done) as count:
                yield count
            return
        from tqdm import tqdm

        name = f"{printable(what):<24}"
        with tqdm(
            total=total, initial=done, desc=name, unit="B", unit_scale=True, disable=not self.show, file=sys.stderr
        ) as bar:
            yield lambda num_bytes: bar.update(num_bytes)


@contextmanager
def _lines(what: str, total: int | None, done: int) -> Iterator[Count]:
    """Show the same as lines of a log, every ``LINE_EVERY_S`` seconds and at the end."""
    began, told, before = time.monotonic(), time.monotonic(), done

    def line(now: float) -> str:
        speed = (done - before) / max(now - began, 1e-3)
        share = "" if total is None else f" of {size(total)}"
        left = "" if not total or not speed else f", {duration(max(total - done, 0) / speed)} left"
        return f"{what}: {size(done)}{share}, {size(speed)}/s{left}"

    def count(num_bytes: int) -> None:
        nonlocal told, done
        done += num_bytes
        now = time.monotonic()
        if now - told >= LINE_EVERY_S:
            told = now
            say(line(now), err=True)

    yield count
    now = time.monotonic()
    say(f"{line(now)}, after {duration(now - began)}", err=True)
