"""How a long read or write tells how far it has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Count = Callable[[int], None]
"""Told of bytes done."""
Bar = Callable[[str, int], AbstractContextManager[Count]]
"""``with bar("verifying", total_bytes) as count`` shows how far a part of the work has come."""


@contextmanager
def no_bar(what: str, total: int) -> Iterator[Count]:
    """Shows nothing."""
    yield lambda num_bytes: None
