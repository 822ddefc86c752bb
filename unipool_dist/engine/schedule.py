"""The lockstep schedule: which stage runs which micro-batch in which half-tick. Pure functions, no torch.

All stages move together. In every half-tick all of them run forward, or all of them run backward, each on a
micro-batch of its own or on none. In a half-tick each rank takes part in the same number of exchanges with the pool,
with tokens of its own or without, so the sequence of collectives is a pure function of the number of stages,
micro-batches and layers, equal on all ranks: nothing can deadlock, and a stage with nothing to run still serves its
experts to the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class HalfTick:
    """What every stage does at the same time: ``microbatches[stage]`` is run in direction ``kind``; ``None``: only
    serve."""

    kind: Literal["forward", "backward"]
    microbatches: tuple[int | None, ...]


Schedule = tuple[HalfTick, ...]


def lockstep_1f1b(num_stages: int, num_microbatches: int) -> Schedule:
    """One forward half, then one backward half, in turn; stage s holds at most ``2 (p - 1 - s) + 1`` micro-batches.

    With p stages and m micro-batches, tick ``T = 0 .. m + 2 (p - 1) - 1`` has a forward half in which stage s runs
    micro-batch ``T - s`` and a backward half in which it runs ``T - 2 (p - 1) + s``, where these exist. Halves in
    which no stage has anything to run are left out, which leaves ``m + p - 1`` of each kind, as many as ordinary 1F1B
    has.
    """
    p, m = num_stages, num_microbatches
    halves: list[HalfTick] = []
    for tick in range(m + 2 * (p - 1)):
        halves.append(HalfTick("forward", _active([tick - stage for stage in range(p)], m)))
        halves.append(HalfTick("backward", _active([tick - 2 * (p - 1) + stage for stage in range(p)], m)))
    return _without_idle(halves)


def lockstep_gpipe(num_stages: int, num_microbatches: int) -> Schedule:
    """All forward halves, then all backward halves; every stage holds all micro-batches at the turn."""
    p, m = num_stages, num_microbatches
    ticks = range(m + p - 1)
    forward = [HalfTick("forward", _active([tick - stage for stage in range(p)], m)) for tick in ticks]
    backward = [HalfTick("backward", _active([tick - (p - 1 - stage) for stage in range(p)], m)) for tick in ticks]
    return _without_idle([*forward, *backward])


def forward_only(num_stages: int, num_microbatches: int) -> Schedule:
    """The forward halves alone, for evaluation."""
    return tuple(half for half in lockstep_gpipe(num_stages, num_microbatches) if half.kind == "forward")


SCHEDULES: dict[str, Callable[[int, int], Schedule]] = {
    "lockstep_1f1b": lockstep_1f1b,
    "lockstep_gpipe": lockstep_gpipe,
}
"""The values of ``parallel.schedule``."""


def _active(microbatches: list[int], num_microbatches: int) -> tuple[int | None, ...]:
    return tuple(i if 0 <= i < num_microbatches else None for i in microbatches)


def _without_idle(halves: list[HalfTick]) -> Schedule:
    return tuple(half for half in halves if any(i is not None for i in half.microbatches))
