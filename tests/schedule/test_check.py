"""Every fault that a schedule can have is refused, and schedules of other kinds than the trainer's are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.own_schedules import merged, odd_order
from unipool_dist.errors import ConfigError, ScheduleError
from unipool_dist.schedule.check import check
from unipool_dist.schedule.lockstep import forward_only, lockstep_1f1b, lockstep_gpipe
from unipool_dist.schedule.registry import training_schedule
from unipool_dist.schedule.work import Edge, Schedule, Tick, Work


def interleaved(p: int, m: int, v: int) -> Schedule:
    """All forward, then all backward, with v chunks on every stage: chunk c runs micro-batch i in tick c + v p i."""
    chunks = p * v

    def tick(number: int) -> list[Work | None]:
        works: list[Work | None] = [None] * p
        for microbatch in range(m):
            chunk = number - chunks * microbatch
            if 0 <= chunk < chunks:
                works[chunk % p] = Work(chunk, microbatch)
        return works

    forward = [tick(number) for number in range(chunks * m)]
    ticks = [Tick(forward=tuple(works)) for works in forward]
    ticks += [Tick(backward=tuple(works)) for works in reversed(forward)]
    return Schedule.of(p, m, ticks, chunks_per_stage=v)


def test_lanes_may_share_a_tick() -> None:
    assert any(len(tick.lanes) == 2 for tick in merged(3, 5).ticks)
    assert check(merged(3, 5)).in_flight == check(lockstep_1f1b(3, 5)).in_flight


def test_microbatches_may_run_in_any_order() -> None:
    assert check(odd_order(3, 5)).in_flight == (5, 5, 5)


def test_a_stage_may_have_several_chunks() -> None:
    assert check(interleaved(3, 4, 2)).in_flight == (8, 8, 8)
    assert Edge("forward", Work(2, 0), 2, 0) in interleaved(3, 4, 2).ticks[2].edges


def test_a_tensor_may_travel_later_than_it_is_made() -> None:
    first, second, third, *rest = forward_only(2, 2).ticks
    late = [replace(first, edges=()), replace(second, forward=(Work(0, 1), None)), Tick(edges=first.edges), *rest]
    late += [Tick(forward=(None, Work(1, 0))), third]
    assert check(replace(forward_only(2, 2), ticks=tuple(late)))


GOOD = lockstep_gpipe(2, 2)


def changed(number: int, **fields: object) -> Schedule:
    """Two stages, two micro-batches, all forward then all backward; one tick of the six changed."""
    ticks = list(GOOD.ticks)
    ticks[number] = replace(ticks[number], **fields)  # type: ignore[arg-type]
    return replace(GOOD, ticks=tuple(ticks))


def with_edges(*edges: tuple[Edge, ...]) -> Schedule:
    """Other edges in the first ticks."""
    first = [replace(tick, edges=other) for tick, other in zip(GOOD.ticks, edges, strict=False)]
    return replace(GOOD, ticks=(*first, *GOOD.ticks[len(edges) :]))


FAULTS: list[tuple[str, Callable[[], Schedule]]] = [
    ("needs one for each of 2 stages", lambda: changed(0, forward=(Work(0, 0),))),
    ("never run", lambda: changed(5, backward=(None, None))),
    ("run twice", lambda: changed(5, backward=(Work(0, 1), Work(1, 0)))),
    ("does not have it", lambda: changed(0, forward=(Work(1, 0), None))),
    ("does not have it", lambda: changed(0, forward=(Work(0, 2), None))),
    ("arrives never", lambda: changed(0, edges=())),
    ("arrives at the end of tick 1", lambda: with_edges((), GOOD.ticks[0].edges + GOOD.ticks[1].edges)),
    ("travels twice", lambda: changed(2, edges=GOOD.ticks[1].edges)),
    ("not made by then", lambda: changed(0, edges=(*GOOD.ticks[0].edges, *GOOD.ticks[1].edges))),
    ("nobody takes", lambda: changed(2, edges=(Edge("forward", Work(1, 1), 1, 0),))),
    ("not between the stages", lambda: changed(0, edges=(Edge("forward", Work(0, 0), 0, 0),))),
    ("not one of its lanes", lambda: replace(GOOD, lanes=("forward",))),
    ("of 0 to 2", lambda: replace(GOOD, num_stages=3)),
    ("before its forward", lambda: replace(lockstep_gpipe(1, 1), ticks=lockstep_gpipe(1, 1).ticks[::-1])),
]


@pytest.mark.parametrize(("message", "make"), FAULTS, ids=[f"{i}-{text}" for i, (text, _) in enumerate(FAULTS)])
def test_what_is_unsound_is_refused(message: str, make: Callable[[], Schedule]) -> None:
    assert check(GOOD)
    with pytest.raises(ScheduleError, match=message):
        check(make())


def test_training_refuses_what_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {
        "lockstep_other": lambda p, m: forward_only(p, m),
        "of_other_sizes": lambda p, m: lockstep_1f1b(p, m + 1),
        "two_chunks": lambda p, m: interleaved(p, m, 2),
        "no_schedule": lambda p, m: [],
    }
    monkeypatch.setattr("unipool_dist.schedule.registry.SCHEDULES", made)
    for name, message in zip(
        made, ["training needs", "2 stages and 5 micro-batches", "several chunks", "is a list"], strict=True
    ):
        with pytest.raises(ScheduleError, match=f"parallel.schedule={name}: .*{message}"):
            training_schedule(name, 2, 4)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="lockstep_1f1b"):
        training_schedule("zigzag", 2, 4)
