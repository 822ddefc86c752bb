"""The process groups that are examined: those of the run, or only the world."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from unipool_dist.base.units import seconds
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.rendezvous import join_world
from unipool_dist.config import Outline
from unipool_dist.doctor.findings import Check
from unipool_dist.doctor.measurement import Probe
from unipool_dist.doctor.roster import Roster

if TYPE_CHECKING:
    from unipool_dist.comm.groups import ParallelGroups

_DTYPE_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Groups:
    """Groups of this rank, by what is measured over them; in the same order on every rank."""

    device: torch.device
    world: dist.ProcessGroup
    control: dist.ProcessGroup
    """All ranks, with gloo."""
    all_reduce: dict[str, dist.ProcessGroup]
    all_to_all: dict[str, dist.ProcessGroup]
    pipeline: dist.ProcessGroup | None = None
    activation_bytes: int = 0
    """Bytes that one pipeline stage sends to the next."""


NOT_COMPARED = "not compared: one machine"


def comparable(groups: Groups, roster: Roster) -> bool:
    """Return whether comparing links says something about hardware: not if all processes share one machine's cores."""
    return groups.device.type == "cuda" or len(roster.nodes) > 1


GroupsOf = Callable[[], AbstractContextManager[Groups]]


def groups_of_run(plan: Outline, environment: Environment, timeout_s: float) -> AbstractContextManager[Groups]:
    """Make the groups of the run that ``plan``, resolved, describes, with ``timeout_s`` in place of its own.

    Collectives of the context: those of :func:`~unipool_dist.comm.groups.process_groups`.
    """
    from unipool_dist.comm.groups import process_groups  # takes seconds, and is needed with a configuration only

    return _groups_of_run(process_groups, plan, environment, timeout_s)


@contextmanager
def _groups_of_run(
    process_groups: Callable[[Outline, Environment], AbstractContextManager[ParallelGroups]],
    plan: Outline,
    environment: Environment,
    timeout_s: float,
) -> Iterator[Groups]:
    parallel = plan.parallel.model_copy(update={"timeout_s": timeout_s})
    with process_groups(replace(plan, parallel=parallel), environment) as groups:
        model, train = plan.model, plan.train
        tokens = train.micro_batch_size * model.sequence_length // groups.grid.tp
        yield Groups(
            groups.device,
            groups.world,
            groups.storage,
            {"world": groups.world} | ({"dp": groups.dp} if 1 < groups.grid.dp < groups.grid.world_size else {}),
            {"pool": groups.pool},
            groups.pp if groups.grid.pp > 1 else None,
            tokens * model.hidden_size * _DTYPE_BYTES[train.dtype],
        )


@contextmanager
def world_alone(environment: Environment, timeout_s: float) -> Iterator[Groups]:
    """Make one group of all ranks.

    Collectives: creates the world, then a gloo group of all ranks; a barrier at the end, unless there was an error.
    """
    timeout = timedelta(seconds=timeout_s)
    join_world(environment, timeout)
    world = dist.group.WORLD
    assert world is not None
    control = dist.new_group(timeout=timeout, backend="gloo")
    yield Groups(environment.device, world, control, {"world": world}, {"world": world})
    dist.barrier()
    dist.destroy_process_group()


@dataclass(frozen=True)
class Formed:
    """The time that forming groups took on one rank."""

    seconds: float


class GroupForming(Probe[Formed]):
    """Makes the groups and runs the first collective of each; :attr:`groups` is set afterwards.

    Args:
        stack: leaves the groups when it is closed.
        explain: on rank 0, returns advice if it fails.
    """

    name = "process groups"
    measured = Formed
    communicates = True

    def __init__(self, groups_of: GroupsOf, stack: ExitStack, explain: Callable[[], str]) -> None:
        self._groups_of, self._stack, self._explain = groups_of, stack, explain
        self.groups: Groups | None = None
        self.stand = False
        """On rank 0: whether all ranks have them."""

    def measure(self, brief: str) -> Formed:
        manager = self._groups_of()
        started = time.perf_counter()
        self.groups = groups = self._stack.enter_context(manager)
        one = torch.ones(1, device=groups.device)
        for group in (*groups.all_reduce.values(), *groups.all_to_all.values()):
            dist.all_reduce(one, group=group)
        dist.all_reduce(torch.ones(1), group=groups.control)
        one.cpu()  # until the device is done
        return Formed(time.perf_counter() - started)

    def judge(self, measured: Sequence[Formed]) -> list[Check]:
        assert self.groups is not None
        self.stand = True
        took_s = min(one.seconds for one in measured)  # on the last rank to begin, which waited for no other
        names = ", ".join(dict.fromkeys((*self.groups.all_reduce, *self.groups.all_to_all)))
        measured_text = f"{names} after {seconds(took_s)}, over {dist.get_backend(self.groups.world)}"
        return [Check(self.name, "ok", measured_text, "every group, within --timeout", "", took_s, "s")]

    def advice(self) -> str:
        return self._explain()
