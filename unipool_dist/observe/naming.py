"""Errors of writing a run's records: they name the file and say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unipool_dist.errors import UnipoolError

ELSEWHERE = "make room, or choose another place that can be written"


@contextmanager
def naming(
    path: Path, advice: str = "make room or repair the file system, then continue with --resume"
) -> Iterator[None]:
    """Run the body, which writes ``path``. ``advice``: what to do if that cannot be written.

    Raises:
        UnipoolError: instead of an ``OSError`` of the body.
    """
    try:
        yield
    except OSError as error:
        raise UnipoolError(f"{path} cannot be written: {error.strerror}; {advice}") from None
