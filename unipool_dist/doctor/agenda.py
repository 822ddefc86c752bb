"""The settings of an examination, its probes, and their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unipool_dist.comm.environment import Environment
from unipool_dist.config import Outline
from unipool_dist.doctor.clock import Clocks
from unipool_dist.doctor.collective_speed import Collective, faster_collective
from unipool_dist.doctor.compute import Compute, faster
from unipool_dist.doctor.confirmed import ROUNDS, Confirmed
from unipool_dist.doctor.disk_space import CheckpointNeed, FreeSpace
from unipool_dist.doctor.disk_speed import DiskRead, DiskWrite
from unipool_dist.doctor.fact_probe import FactsProbe
from unipool_dist.doctor.group_forming import GroupForming, Groups, groups_of_run, world_alone
from unipool_dist.doctor.measurement import M, Probe
from unipool_dist.doctor.neighbours import Links, faster_links
from unipool_dist.doctor.roster import Roster
from unipool_dist.doctor.shared_directory import RunDirectory


@dataclass(frozen=True)
class Settings:
    """What to examine and for how long; the same on all ranks."""

    run_dir: Path
    plan: Outline | None = None
    """Resolved; ``None``: examine one group of all ranks."""
    config_error: str = ""
    """Why a configuration that was given cannot be used."""
    need: CheckpointNeed | None = None
    timeout_s: float = 60.0
    """Timeout of the rendezvous and of every collective."""
    time_limit_s: float = 120.0
    """No probe is begun after this time."""
    disk_bytes: int = 64_000_000
    """Bytes that each node writes."""


def probes(
    settings: Settings,
    environment: Environment,
    roster: Roster,
    leaving: ExitStack,
    facts: FactsProbe,
    directory: RunDirectory,
    agreed: Callable[[bool], bool],
) -> Iterator[Probe[Any]]:
    """Yield the probes in order, the same on every rank; one makes the groups, followed by those that use them.

    Args:
        leaving: leaves the groups when it is closed.
        agreed: returns on all ranks what rank 0 says.
    """
    rank = environment.rank
    yield facts
    forming = GroupForming(partial(_groups_of, settings, environment), leaving, facts.why_groups_may_fail)
    yield forming
    groups = forming.groups if agreed(forming.stand) else None
    if groups is not None:
        yield Clocks(groups.control, rank, roster)
    yield directory
    yield FreeSpace(settings.run_dir, settings.need)
    yield DiskWrite(directory, rank, roster, settings.disk_bytes)
    yield DiskRead(directory, rank, roster)
    yield from _confirmed(Compute(environment.device, roster), faster, agreed)
    if groups is not None:
        yield from _confirmed(Links(groups, rank, roster), faster_links, agreed)
        for collective in _collectives(groups, roster):
            yield from _confirmed(collective, faster_collective, agreed)


def _collectives(groups: Groups, roster: Roster) -> Iterator[Collective]:
    for name, group in groups.all_reduce.items():
        yield Collective("all-reduce", name, group, groups, roster)
    for name, group in groups.all_to_all.items():
        yield Collective("all-to-all", name, group, groups, roster)
    if groups.pipeline is not None:
        yield Collective("send/recv", "pipeline", groups.pipeline, groups, roster, groups.activation_bytes)


def _confirmed(probe: Probe[M], better: Callable[[M, M], M], agreed: Callable[[bool], bool]) -> Iterator[Probe[M]]:
    confirmed = Confirmed(probe, better)
    for _ in range(ROUNDS):
        yield confirmed
        if agreed(confirmed.settled):
            return


def _groups_of(settings: Settings, environment: Environment) -> AbstractContextManager[Groups]:
    if settings.plan is None:
        return world_alone(environment, settings.timeout_s)
    return groups_of_run(settings.plan, environment, settings.timeout_s)
