"""The schedules of the trainer: all stages run forward together, then all backward, one chunk on every stage."""

from __future__ import annotations

from unipool_dist.schedule.work import Schedule, Tick, Work, Works


def lockstep_1f1b(num_stages: int, num_microbatches: int) -> Schedule:
    """Alternate forward and backward ticks; stage s holds at most ``2 (p - 1 - s) + 1`` micro-batches.

    With p stages and m micro-batches, round ``R = 0 .. m + 2 (p - 1) - 1`` has a forward tick in which stage s runs
    micro-batch ``R - s`` and a backward tick in which it runs ``R - 2 (p - 1) + s``, where these exist. Ticks in which
    no stage has anything to run are left out, which leaves ``m + p - 1`` of each lane, as many as ordinary 1F1B has.
    """
    p, m = num_stages, num_microbatches
    ticks: list[Tick] = []
    for number in range(m + 2 * (p - 1)):
        ticks.append(Tick(forward=_works([number - stage for stage in range(p)], m)))
        ticks.append(Tick(backward=_works([number - 2 * (p - 1) + stage for stage in range(p)], m)))
    return Schedule.of(p, m, ticks)


def lockstep_gpipe(num_stages: int, num_microbatches: int) -> Schedule:
    """Run all forward ticks, then all backward ticks; every stage holds all micro-batches at the turn."""
    p, m = num_stages, num_microbatches
    backward = [Tick(backward=_works([n - (p - 1 - stage) for stage in range(p)], m)) for n in range(m + p - 1)]
    return Schedule.of(p, m, [*_forward_ticks(p, m), *backward])


def forward_only(num_stages: int, num_microbatches: int) -> Schedule:
    """Run the forward ticks alone, for evaluation."""
    return Schedule.of(num_stages, num_microbatches, _forward_ticks(num_stages, num_microbatches), lanes=("forward",))


def _forward_ticks(p: int, m: int) -> list[Tick]:
    return [Tick(forward=_works([number - stage for stage in range(p)], m)) for number in range(m + p - 1)]


def _works(microbatches: list[int], num_microbatches: int) -> Works:
    """Let stage s run ``microbatches[s]`` of its chunk s, if there is such a micro-batch."""
    return tuple(
        Work(stage, microbatch) if 0 <= microbatch < num_microbatches else None
        for stage, microbatch in enumerate(microbatches)
    )
