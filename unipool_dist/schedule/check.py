"""Whether a schedule is sound: what tests, the executor and a simulator rely on."""

from __future__ import annotations

from dataclasses import dataclass

from unipool_dist.errors import ScheduleError
from unipool_dist.schedule.work import Edge, Lane, Schedule, Work


@dataclass(frozen=True)
class CheckedSchedule:
    """A schedule that :func:`check` has found sound; made nowhere else."""

    schedule: Schedule
    in_flight: tuple[int, ...]
    """By stage, the most work that has run forward and not yet backward at the same time."""


def check(schedule: Schedule) -> CheckedSchedule:
    """Return ``schedule`` as checked, with what it holds in flight. Pure; linear in the work.

    Guarantees of the result:

    * every lane has an entry for every stage or none at all, so all ranks make the same sequence of exchanges;
    * every micro-batch of every chunk runs once in every lane of the schedule, on the stage of its chunk;
    * every output and gradient that another chunk needs travels once, from the stage that made it, not before it is
      made and before it is needed;
    * forward runs before backward.

    Raises:
        ScheduleError: one of these does not hold; the message names the first work or edge concerned.
    """
    _check_lanes(schedule)
    ticks = {lane: _ticks_of_work(schedule, lane) for lane in schedule.lanes}
    arrivals = _check_edges(schedule, ticks)
    last = len(schedule.stage_of_chunk) - 1
    for lane, runs in ticks.items():
        for work, tick in runs.items():
            if work.chunk == (0 if lane == "forward" else last):
                continue
            arrival = arrivals.get((lane, work))
            if arrival is None or arrival >= tick:
                when = "never" if arrival is None else f"at the end of tick {arrival}"
                raise ScheduleError(f"tick {tick} runs {_text(lane, work)}, but what it needs arrives {when}")
    if "backward" in ticks:
        for work, tick in ticks["backward"].items():
            if ticks["forward"][work] > tick:
                raise ScheduleError(
                    f"{_text('backward', work)} is in tick {tick}, before its forward in {ticks['forward'][work]}"
                )
    return CheckedSchedule(schedule, tuple(_most_in_flight(schedule, stage) for stage in range(schedule.num_stages)))


def _check_lanes(schedule: Schedule) -> None:
    p = schedule.num_stages
    if sorted(set(schedule.stage_of_chunk)) != list(range(p)):
        raise ScheduleError(f"its chunks are on the stages {sorted(set(schedule.stage_of_chunk))}, of 0 to {p - 1}")
    for number, tick in enumerate(schedule.ticks):
        for lane in tick.lanes:
            if lane not in schedule.lanes:
                raise ScheduleError(f"tick {number} runs {lane}, which is not one of its lanes {schedule.lanes}")
            if len(tick.works(lane)) != p:
                raise ScheduleError(
                    f"tick {number} has {len(tick.works(lane))} entries in its {lane} lane; it needs one for each of "
                    f"{p} stages, or ranks would wait for exchanges that others do not make"
                )


def _ticks_of_work(schedule: Schedule, lane: Lane) -> dict[Work, int]:
    """Return the tick of every work; refuse work that is missing, there twice or on another stage."""
    found: dict[Work, int] = {}
    stage_of_chunk, m = schedule.stage_of_chunk, schedule.num_microbatches
    for stage in range(schedule.num_stages):
        for tick, work in schedule.runs(stage, lane):
            known = 0 <= work.chunk < len(stage_of_chunk) and 0 <= work.microbatch < m
            if not known or stage_of_chunk[work.chunk] != stage:
                raise ScheduleError(f"tick {tick} runs {_text(lane, work)} on stage {stage}, which does not have it")
            if work in found:
                raise ScheduleError(f"{_text(lane, work)} is run twice, in ticks {found[work]} and {tick}")
            found[work] = tick
    if len(found) < len(stage_of_chunk) * m:
        every = (Work(chunk, microbatch) for chunk in range(len(stage_of_chunk)) for microbatch in range(m))
        missing = next(work for work in every if work not in found)
        raise ScheduleError(f"{_text(lane, missing)} is never run")
    return found


def _check_edges(schedule: Schedule, ticks: dict[Lane, dict[Work, int]]) -> dict[tuple[Lane, Work], int]:
    """Return the tick at whose end each tensor arrives, by the work that needs it."""
    arrivals: dict[tuple[Lane, Work], int] = {}
    stage_of_chunk = schedule.stage_of_chunk
    for number, tick in enumerate(schedule.ticks):
        for edge in tick.edges:
            taker = edge.taken_by
            ends = (edge.source, edge.target)
            if not 0 <= taker.chunk < len(stage_of_chunk) or edge.lane not in ticks:
                raise ScheduleError(f"the edge {_ends(edge)} of tick {number} carries what nobody takes")
            if ends != (stage_of_chunk[edge.work.chunk], stage_of_chunk[taker.chunk]):
                raise ScheduleError(f"the edge {_ends(edge)} of tick {number} is not between the stages of its chunks")
            if ticks[edge.lane].get(edge.work, number + 1) > number:
                raise ScheduleError(f"the edge {_ends(edge)} of tick {number} carries what is not made by then")
            if (edge.lane, taker) in arrivals:
                raise ScheduleError(f"what {_text(edge.lane, taker)} needs travels twice")
            arrivals[edge.lane, taker] = number
    return arrivals


def _most_in_flight(schedule: Schedule, stage: int) -> int:
    """Count the work of ``stage`` between forward and backward, at worst; within a tick forward runs first."""
    if "backward" not in schedule.lanes:
        return 0
    steps = [(tick, 1) for tick, _ in schedule.runs(stage, "forward")]
    steps += [(tick, -1) for tick, _ in schedule.runs(stage, "backward")]
    held = most = 0
    for _, change in sorted(steps, key=lambda step: (step[0], -step[1])):
        held += change
        most = max(most, held)
    return most


def _text(lane: Lane, work: Work) -> str:
    return f"{lane} of micro-batch {work.microbatch} of chunk {work.chunk}"


def _ends(edge: Edge) -> str:
    return f"from stage {edge.source} to {edge.target} ({_text(edge.lane, edge.work)})"
