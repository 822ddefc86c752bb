"""The report of a rank when the run makes no progress."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from unipool_dist.resilience.collectives import Collective


class NoProgressError(Exception):
    """Its message says where the summary is. Never raised: torch's agent finds it where it looks for a rank's error."""


@dataclass(frozen=True)
class Report:
    """The state of one rank when it learned that the run is stuck."""

    rank: int
    host: str
    pid: int
    step: int | None
    """The step under way; ``None`` before the first."""
    doing: str
    """The last activity that the training thread reported."""
    quiet_s: float
    """Time since that report."""
    place: str
    """``FILE:LINE FUNCTION`` of the training thread."""
    collective: Collective | None
    """The collective that it waits in; if none, the last one completed; ``None``: none is known."""
    point_to_point: bool = False
    """Whether it is sending to or receiving from one other rank."""
    entered: dict[str, int] = field(default_factory=dict)
    """By group, the number of the newest collective that it has entered, as far back as the record goes."""

    @property
    def waits(self) -> bool:
        """Whether it waits for other ranks, and so cannot be the cause alone."""
        return self.point_to_point or (self.collective is not None and not self.collective.completed)

    def to_json(self) -> str:
        """Return the report as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Parse the result of :meth:`to_json`."""
        fields = json.loads(text)
        collective = fields.pop("collective")
        return cls(**fields, collective=None if collective is None else Collective(**collective))


@dataclass(frozen=True)
class Whereabouts:
    """How to find a rank that does not answer; left by each rank when it begins."""

    rank: int
    host: str
    pid: int
    created: float
    """When the process was started, seconds since 1970: another one may get its number."""
    stacks_descriptor: int | None

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Whereabouts:
        """Parse the result of :meth:`to_json`."""
        return cls(**json.loads(text))
