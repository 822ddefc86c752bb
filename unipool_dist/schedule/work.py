"""The units of a schedule: work, edges between stages, ticks.

A *chunk* is a run of neighbouring layers. The model is its chunks one after the other; each lives on one stage, and a
stage may have several (virtual stages). All stages move together, tick by tick.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

Lane = Literal["forward", "backward"]
LANES: tuple[Lane, ...] = ("forward", "backward")


class Work(NamedTuple):
    """One micro-batch of one chunk."""

    chunk: int
    microbatch: int


Works = tuple[Work | None, ...]
"""What every stage runs in one lane of a tick; ``None``: it only serves its experts to the others."""


class Edge(NamedTuple):
    """A tensor that travels between stages at the end of a tick."""

    lane: Lane
    work: Work
    """What made it: the output of ``work`` (forward), or the gradient of its input (backward)."""
    source: int
    target: int

    @property
    def taken_by(self) -> Work:
        """The work on ``target`` that needs the tensor."""
        return Work(self.work.chunk + (1 if self.lane == "forward" else -1), self.work.microbatch)


@dataclass(frozen=True)
class Tick:
    """What all stages do at the same time: the forward lane if there is one, then the backward lane, then the edges.

    A lane either has an entry for every stage, or is empty and then makes no exchange on any rank.
    """

    forward: Works = ()
    backward: Works = ()
    edges: tuple[Edge, ...] = ()

    def works(self, lane: Lane) -> Works:
        """Return the entries of ``lane``."""
        return self.forward if lane == "forward" else self.backward

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The lanes that are not empty, in the order in which they run."""
        return tuple(lane for lane in LANES if self.works(lane))


@dataclass(frozen=True)
class Schedule:
    """A step's ticks. Data that anyone may make; :func:`unipool_dist.schedule.check.check` says whether it is sound."""

    num_stages: int
    num_microbatches: int
    stage_of_chunk: tuple[int, ...]
    lanes: tuple[Lane, ...]
    """The lanes in which all work is to be done: both, or forward only."""
    ticks: tuple[Tick, ...]

    @classmethod
    def of(
        cls,
        num_stages: int,
        num_microbatches: int,
        ticks: Iterable[Tick],
        *,
        chunks_per_stage: int = 1,
        lanes: tuple[Lane, ...] = LANES,
    ) -> Schedule:
        """Make a schedule from ticks without edges.

        Chunks are dealt out to the stages in turn, every output and every gradient travels at the end of the tick that
        makes it, and lanes in which no stage has work are left out.
        """
        stage_of_chunk = tuple(range(num_stages)) * chunks_per_stage
        made = [replace(tick, edges=tuple(_edges(tick, stage_of_chunk))) for tick in map(_without_idle, ticks)]
        return cls(num_stages, num_microbatches, stage_of_chunk, lanes, tuple(tick for tick in made if tick.lanes))

    def runs(self, stage: int, lane: Lane) -> Iterator[tuple[int, Work]]:
        """Yield the work of ``stage`` in ``lane``, each with the number of its tick."""
        for number, tick in enumerate(self.ticks):
            works = tick.works(lane)
            work = works[stage] if works else None
            if work is not None:
                yield number, work


def served_slots(lane: Lane, own: int, slots: int) -> range:
    """Return the exchanges, of ``slots`` in a lane, in which a stage that runs ``own`` layers only serves.

    They come after the stage's own exchanges forward and before them backward, so that all ranks make exchanges
    0, 1, ... forward and ..., 1, 0 backward.
    """
    return range(own, slots) if lane == "forward" else range(slots - 1, own - 1, -1)


def _without_idle(tick: Tick) -> Tick:
    forward, backward = (tick.works(lane) if any(tick.works(lane)) else () for lane in LANES)
    return Tick(forward, backward)


def _edges(tick: Tick, stage_of_chunk: tuple[int, ...]) -> Iterator[Edge]:
    for lane in LANES:
        for source, work in enumerate(tick.works(lane)):
            if work is not None:
                edge = Edge(lane, work, source, source)
                if 0 <= edge.taken_by.chunk < len(stage_of_chunk):
                    yield edge._replace(target=stage_of_chunk[edge.taken_by.chunk])
