"""One rank decides what all do: for libraries without a notion of ranks, such as lm-eval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from unipool_dist.errors import RemoteError

A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T")


def driven_by_rank_0(
    group: dist.ProcessGroup, work: Callable[[A], R], drive: Callable[[Callable[[A], R]], T]
) -> T | None:
    """Run ``drive(call)`` on rank 0; whenever it calls ``call(argument)``, every rank runs ``work(argument)``.

    Returns what ``drive`` returned, on rank 0, and ``None`` on the others, which wait for calls meanwhile.

    Args:
        group: the group of the broadcasts (gloo); the time between two calls must be within its timeout.
        work: may communicate; ``drive`` itself must not.

    Collectives: for each call one broadcast_object_list over ``group``, then those of ``work``; one broadcast more.

    Raises:
        RemoteError: on the other ranks, for whatever ``drive`` raised on rank 0.
    """
    if group.rank() != 0:
        _serve(group, work)
        return None

    working = False

    def call(argument: A) -> R:
        nonlocal working
        _exchange(group, ("work", argument))
        working = True
        answer = work(argument)
        working = False
        return answer

    try:
        result = drive(call)
    except Exception as error:  # the other ranks wait for a call and must hear of it
        if not working:  # else the others are in the same work, where they would not hear
            _exchange(group, ("failed", f"{type(error).__name__}: {error}"))
        raise
    _exchange(group, ("done", None))
    return result


def _serve(group: dist.ProcessGroup, work: Callable[[Any], object]) -> None:
    while True:
        kind, content = _exchange(group, None)
        if kind == "done":
            return
        if kind == "failed":
            raise RemoteError(f"rank 0 stopped: {content}")
        work(content)


def _exchange(group: dist.ProcessGroup, message: tuple[str, Any] | None) -> tuple[str, Any]:
    """Return rank 0's value on every rank."""
    box = [message]
    dist.broadcast_object_list(box, group_src=0, group=group)
    assert box[0] is not None
    return box[0]
