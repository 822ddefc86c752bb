"""Failing together: an error of one rank becomes an error of all, instead of a wait for a rank that has gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from unipool_dist.errors import RemoteError, UnipoolError


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
