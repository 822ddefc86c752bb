"""What signals do to this process, which goes on to other tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unipool_dist.resilience.signal_watch import STOP_SIGNALS


def handlers() -> dict[int, Any]:
    """What is done at each of the signals that stop a run."""
    return {number: signal.getsignal(number) for number in STOP_SIGNALS}


@contextmanager
def handlers_given_back() -> Iterator[None]:
    """Whatever is set within is set back at the end."""
    before = handlers()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
