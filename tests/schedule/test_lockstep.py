"""The schedules of the trainer for all p <= 8 and m <= 16: sound, as short as 1F1B, within their memory bound."""

from __future__ import annotations

from itertools import pairwise

import pytest

from unipool_dist.schedule.check import check
from unipool_dist.schedule.lockstep import forward_only, lockstep_1f1b
from unipool_dist.schedule.registry import SCHEDULES, training_schedule
from unipool_dist.schedule.work import LANES, Lane, Schedule, served_slots

SIZES = [(p, m) for p in range(1, 9) for m in range(1, 17)]


def runs(schedule: Schedule, lane: Lane, stage: int) -> dict[int, int]:
    """Tick in which ``stage`` runs each micro-batch in ``lane``; asserts that it does so once."""
    found: dict[int, int] = {}
    for number, work in schedule.runs(stage, lane):
        assert work.chunk == stage and work.microbatch not in found
        found[work.microbatch] = number
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_microbatch_runs_once_per_stage_in_order(name: str) -> None:
    for p, m in SIZES:
        schedule = SCHEDULES[name](p, m)
        for lane in LANES:
            for stage in range(p):
                found = runs(schedule, lane, stage)
                assert sorted(found) == list(range(m)), (p, m, lane, stage)
                assert all(found[i] < found[i + 1] for i in range(m - 1)), (p, m, lane, stage)


@pytest.mark.parametrize("name", SCHEDULES)
def test_tensors_arrive_before_they_are_needed(name: str) -> None:
    """Outputs and gradients travel at the end of a tick, so they may be used from the next tick on."""
    for p, m in SIZES:
        schedule = SCHEDULES[name](p, m)
        forward = [runs(schedule, "forward", stage) for stage in range(p)]
        backward = [runs(schedule, "backward", stage) for stage in range(p)]
        for i in range(m):
            assert all(a[i] < b[i] for a, b in pairwise(forward)), (p, m, i)
            assert all(a[i] < b[i] for a, b in pairwise(reversed(backward))), (p, m, i)
            assert forward[-1][i] < backward[-1][i], (p, m, i)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_check_agrees(name: str) -> None:
    for p, m in SIZES:
        assert training_schedule(name, p, m).schedule == SCHEDULES[name](p, m)
        assert check(forward_only(p, m)).in_flight == (0,) * p


@pytest.mark.parametrize("name", SCHEDULES)
def test_edges_go_to_neighbours_as_soon_as_there_is_something_to_send(name: str) -> None:
    for p, m in SIZES:
        schedule = SCHEDULES[name](p, m)
        for tick in schedule.ticks:
            for edge in tick.edges:
                assert edge.target - edge.source == (1 if edge.lane == "forward" else -1)
                assert tick.works(edge.lane)[edge.source] == edge.work
        assert sum(len(tick.edges) for tick in schedule.ticks) == 2 * m * (p - 1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_tick_is_idle_and_there_are_as_few_as_in_1f1b(name: str) -> None:
    for p, m in SIZES:
        schedule = SCHEDULES[name](p, m)
        assert all(any(tick.works(lane)) for tick in schedule.ticks for lane in tick.lanes)
        for lane in LANES:
            assert sum(tick.lanes == (lane,) for tick in schedule.ticks) == m + p - 1, (p, m)


def test_microbatches_in_flight_stay_within_the_bound() -> None:
    for p, m in SIZES:
        checked = check(lockstep_1f1b(p, m))
        for stage in range(p):
            bound = 2 * (p - 1 - stage) + 1
            assert checked.in_flight[stage] <= bound, (p, m, stage)
            assert m < bound or checked.in_flight[stage] == bound, "the bound is reached with enough micro-batches"


@pytest.mark.parametrize("name", SCHEDULES)
def test_all_ranks_make_the_same_sequence_of_exchanges(name: str) -> None:
    """What a rank exchanges follows from the lanes of each tick alone, whichever stage it is on.

    A stage runs the slots of its own layers itself and serves the rest, in the one order that all stages share.
    """
    for p, m in SIZES:
        layers_of_stage = [1 + stage % 3 for stage in range(p)]
        slots = max(layers_of_stage)
        sequences = set()
        for stage, own in enumerate(layers_of_stage):
            sequence: list[tuple[str, int]] = []
            for tick in SCHEDULES[name](p, m).ticks:
                for lane in tick.lanes:
                    done = own if tick.works(lane)[stage] is not None else 0
                    served = served_slots(lane, done, slots)
                    order = [*range(done), *served] if lane == "forward" else [*served, *reversed(range(done))]
                    sequence += [(lane, slot) for slot in order]
            sequences.add(tuple(sequence))
        assert len(sequences) == 1, (p, m)


def test_forward_only_has_no_backward_lane() -> None:
    for p, m in SIZES:
        schedule = forward_only(p, m)
        assert len(schedule.ticks) == m + p - 1
        assert all(tick.lanes == ("forward",) for tick in schedule.ticks)
