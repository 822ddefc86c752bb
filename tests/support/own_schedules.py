"""Schedules of a user's own, as ``parallel.schedule`` names them: ``tests.support.own_schedules:odd_order``."""

from __future__ import annotations

from dataclasses import replace

from unipool_dist.schedule.lockstep import lockstep_1f1b, lockstep_gpipe
from unipool_dist.schedule.work import Schedule, Tick, Work, Works


def odd_order(num_stages: int, num_microbatches: int) -> Schedule:
    """All forward, then all backward; micro-batches with odd numbers first, and backward from the last to the first."""
    odd, even = range(1, num_microbatches, 2), range(0, num_microbatches, 2)
    order = {"forward": [*odd, *even], "backward": list(reversed(range(num_microbatches)))}

    def renamed(works: Works, lane: str) -> Works:
        return tuple(None if work is None else Work(work.chunk, order[lane][work.microbatch]) for work in works)

    ticks = [
        Tick(renamed(tick.forward, "forward"), renamed(tick.backward, "backward"))
        for tick in lockstep_gpipe(num_stages, num_microbatches).ticks
    ]
    return Schedule.of(num_stages, num_microbatches, ticks)


def merged(num_stages: int, num_microbatches: int) -> Schedule:
    """1F1B with a forward and a backward lane in one tick, as overlapped schedules have them."""
    ticks: list[Tick] = []
    for tick in lockstep_1f1b(num_stages, num_microbatches).ticks:
        if tick.backward and ticks and not ticks[-1].backward:
            ticks[-1] = replace(ticks[-1], backward=tick.backward)
        else:
            ticks.append(tick)
    return Schedule.of(num_stages, num_microbatches, ticks)
