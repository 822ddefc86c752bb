"""Schedules as data: every property that keeps ranks from waiting for each other, for all p <= 8 and m <= 16."""

from __future__ import annotations

from itertools import pairwise

import pytest

from unipool_dist.engine.schedule import SCHEDULES, Schedule, forward_only, lockstep_1f1b

SIZES = [(p, m) for p in range(1, 9) for m in range(1, 17)]


def runs(schedule: Schedule, kind: str, stage: int) -> dict[int, int]:
    """Half-tick in which ``stage`` runs each micro-batch in direction ``kind``; asserts that it does so once."""
    found: dict[int, int] = {}
    for index, half in enumerate(schedule):
        microbatch = half.microbatches[stage]
        if half.kind == kind and microbatch is not None:
            assert microbatch not in found
            found[microbatch] = index
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_microbatch_runs_once_per_stage_in_order(name: str) -> None:
    for p, m in SIZES:
        schedule = SCHEDULES[name](p, m)
        for kind in ("forward", "backward"):
            for stage in range(p):
                found = runs(schedule, kind, stage)
                assert sorted(found) == list(range(m)), (p, m, kind, stage)
                assert all(found[i] < found[i + 1] for i in range(m - 1)), (p, m, kind, stage)


@pytest.mark.parametrize("name", SCHEDULES)
def test_tensors_arrive_before_they_are_needed(name: str) -> None:
    """Outputs and gradients travel at the end of a half, so they may be used from the next half on."""
    for p, m in SIZES:
        schedule = SCHEDULES[name](p, m)
        forward = [runs(schedule, "forward", stage) for stage in range(p)]
        backward = [runs(schedule, "backward", stage) for stage in range(p)]
        for i in range(m):
            assert all(a[i] < b[i] for a, b in pairwise(forward)), (p, m, i)
            assert all(a[i] < b[i] for a, b in pairwise(reversed(backward))), (p, m, i)
            assert forward[-1][i] < backward[-1][i], (p, m, i)


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_half_is_idle_and_there_are_as_few_as_in_1f1b(name: str) -> None:
    for p, m in SIZES:
        schedule = SCHEDULES[name](p, m)
        assert all(any(i is not None for i in half.microbatches) for half in schedule)
        for kind in ("forward", "backward"):
            assert sum(half.kind == kind for half in schedule) == m + p - 1, (p, m)


def test_microbatches_in_flight_stay_within_the_bound() -> None:
    for p, m in SIZES:
        for stage in range(p):
            in_flight = most = 0
            for half in lockstep_1f1b(p, m):
                if half.microbatches[stage] is not None:
                    in_flight += 1 if half.kind == "forward" else -1
                    most = max(most, in_flight)
            bound = 2 * (p - 1 - stage) + 1
            assert most <= bound, (p, m, stage)
            assert m < bound or most == bound, "the bound is reached where there are enough micro-batches"


@pytest.mark.parametrize("name", SCHEDULES)
def test_all_ranks_make_the_same_sequence_of_exchanges(name: str) -> None:
    """What a rank exchanges follows from the kind of each half alone, whichever stage it is on.

    A stage runs the slots of its own layers itself and serves the rest, in the one order that all stages share.
    """
    for p, m in SIZES:
        layers_of_stage = [1 + stage % 3 for stage in range(p)]
        slots = max(layers_of_stage)
        sequences = set()
        for stage, own in enumerate(layers_of_stage):
            sequence: list[tuple[str, int]] = []
            for half in SCHEDULES[name](p, m):
                done = own if half.microbatches[stage] is not None else 0
                if half.kind == "forward":
                    order = [*range(done), *range(done, slots)]
                else:
                    order = [*reversed(range(done, slots)), *reversed(range(done))]
                sequence += [(half.kind, slot) for slot in order]
            sequences.add(tuple(sequence))
        assert len(sequences) == 1, (p, m)


def test_forward_only_has_no_backward_halves() -> None:
    for p, m in SIZES:
        schedule = forward_only(p, m)
        assert len(schedule) == m + p - 1
        assert all(half.kind == "forward" for half in schedule)
