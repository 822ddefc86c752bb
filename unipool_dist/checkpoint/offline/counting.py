"""How something long tells how far it has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Count = Callable[[int], None]
"""Told of bytes done, or of whatever the bar is about."""
Bar = Callable[[str, int], AbstractContextManager[Count]]
"""``with bar("verifying", total) as count`` shows how far a part of the work has come."""


def uncounted(done: int) -> None:
    """A :data:`Count` that tells nobody."""


@contextmanager
def no_bar(what: str, total: int) -> Iterator[Count]:
    """Shows nothing."""
    yield uncounted
