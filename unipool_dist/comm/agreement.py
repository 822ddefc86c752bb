"""Collective failing and waiting: an error of one rank becomes an error of all, instead of a hang.

One rank may also work for longer than a collective may wait, while the others wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from unipool_dist.errors import RemoteError, UnipoolError

T = TypeVar("T")
_ASK_EVERY_S = 2.0


@contextmanager
def failing_together(doing: str, group: dist.ProcessGroup | None = None) -> Iterator[None]:
    """Run the body on every rank; if it raised a :class:`UnipoolError` or ``OSError`` anywhere, raise on all ranks.

    A rank whose own body raised raises that, an ``OSError`` as a :class:`UnipoolError` that says what failed; the
    others raise :class:`RemoteError` with the first failing rank's message. The body must not communicate.
    Collectives: one all_gather_object over ``group``, by default the world.
    """
    error: Exception | None = None
    try:
        yield
    except (UnipoolError, OSError) as caught:
        error = caught
    messages: list[str | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(messages, None if error is None else f"{type(error).__name__}: {error}", group)
    if isinstance(error, OSError):
        raise UnipoolError(f"{doing} failed: {error}") from error
    if error is not None:
        raise error
    for rank, message in enumerate(messages):
        if message is not None:
            raise RemoteError(f"{doing} failed on rank {rank}: {message}")


def on_rank_0(doing: str, work: Callable[[], T], group: dist.ProcessGroup) -> T | None:
    """Run ``work`` on rank 0 while the others wait; return its result there, else ``None``. Fails on all ranks alike.

    However long it takes, no collective waits for more than a few seconds. ``work`` runs in a thread and must not
    communicate. Errors are those of :func:`failing_together`.

    Collectives, over ``group`` (gloo): one all-reduce every two seconds until it is done, then one all_gather_object.
    """
    executor = ThreadPoolExecutor(1)
    future = executor.submit(work) if group.rank() == 0 else None
    executor.shutdown(wait=False)  # takes no more
    done = torch.zeros((), dtype=torch.int32)
    while not done:
        if future is not None:
            wait([future], _ASK_EVERY_S)
        done = torch.tensor(int(future is not None and future.done()), dtype=torch.int32)
        dist.all_reduce(done, group=group)
    with failing_together(doing, group):
        result = None if future is None else future.result()
    return result
