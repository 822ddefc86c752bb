"""The collectives that this process has entered, from torch's flight recorders, which are on by default.

There are two: of gloo, which omits sends and receives, and in builds with CUDA of NCCL. An entry marked retired has
ended on this rank; with NCCL torch's own thread notices that some 100 ms late.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NUM_SHOWN = 20
_P2P = "send or receive"


@dataclass(frozen=True)
class Collective:
    """One collective, as one rank sees it."""

    group: str
    """Identifies the group; the same on all ranks."""
    name: str
    """Purpose of the group, such as ``pool``."""
    operation: str
    """Its name, such as ``all_reduce``."""
    number: int
    """Number of the collective within its group, from 1; the same on all ranks unless they have diverged."""
    completed: bool
    """Whether it has ended on this rank; if not, this rank waits in it, or it waits for a GPU."""
    members: str = ""
    """Ranks of the group, such as ``0-3,8``; empty: not known."""

    @property
    def point_to_point(self) -> bool:
        """Whether only two ranks take part; the number then means nothing to other ranks."""
        return self.operation.startswith(_P2P)

    def __str__(self) -> str:
        number = "" if self.point_to_point else f" #{self.number}"
        return f"{self.operation}{number} of {self.name}" + (
            f" (rank{'' if self.members.isdigit() else 's'} {self.members})" if self.members else ""
        )


@dataclass(frozen=True)
class Group:
    """The facts about a group that the recorder does not have."""

    name: str
    members: str


def recorded(groups: Mapping[str, Group], without_threads: Collection[int] = ()) -> list[Collective]:
    """Return the newest collectives of this process, oldest first; empty if the recorder is off. Takes up to 0.1 s.

    Args:
        groups: by the names that torch gives them.
        without_threads: identifiers of threads whose collectives are left out.
    """
    from torch._C import _distributed_c10d

    dumps = [getattr(_distributed_c10d, name, None) for name in ("_dump_fr_trace_json", "_dump_nccl_trace_json")]
    return from_traces([json.loads(dump(True, False)) for dump in dumps if dump is not None], groups, without_threads)


def from_traces(
    traces: Sequence[Any], groups: Mapping[str, Group], without_threads: Collection[int] = ()
) -> list[Collective]:
    """Return the same from the recorders' traces; what is in both counts once. Pure."""
    left_out = {str(thread) for thread in without_threads}
    entries = {
        (entry["time_created_ns"], entry["profiling_name"], entry["op_id"]): entry
        for trace in traces
        for entry in trace.get("entries", [])
    }
    found = []
    for _, entry in sorted(entries.items()):
        if entry.get("thread_id") in left_out:
            continue
        group, description = entry["process_group"]
        known = groups.get(group) or Group(description or f"group {group}", "")
        operation = entry["profiling_name"].partition(":")[2] or entry["profiling_name"]
        found.append(
            Collective(
                group=group,
                name=known.name,
                operation=f"{_P2P} ({operation})" if entry["is_p2p"] else operation,
                number=entry["p2p_seq_id" if entry["is_p2p"] else "collective_seq_id"],
                completed=entry["retired"] or entry["state"] == "completed",
                members=known.members,
            )
        )
    return found


def last_of(collectives: list[Collective]) -> Collective | None:
    """Return the collective that a rank is in: the oldest that has not ended; if all have, the newest.

    Later ones wait for the oldest.
    """
    unfinished = [collective for collective in collectives if not collective.completed]
    return next(iter(unfinished or collectives[-1:]), None)


def entered(collectives: list[Collective]) -> dict[str, int]:
    """Return by group the number of the newest collective that was entered."""
    return {c.group: c.number for c in collectives if not c.point_to_point}
