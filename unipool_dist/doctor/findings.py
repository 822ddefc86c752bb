"""Findings of an examination: one check after the other, each with a status, and advice where it is not ok. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    status: Status
    measured: str
    """The measurement in words."""
    expected: str
    """What is expected, in words."""
    advice: str = ""
    """What to do; there is some unless the status is ok."""
    value: float | None = None
    """The one figure that summarizes the check, if there is one."""
    unit: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """All measurements, for programs; names carry units."""
    slow_nodes: tuple[str, ...] = ()
    slow_ranks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assert self.advice or self.status == "ok", self.name

    def record(self) -> dict[str, Any]:
        """Return the check as a JSON object."""
        record: dict[str, Any] = {
            "name": self.name,
            "status": self.status,
            "value": self.value,
            "unit": self.unit,
            "measured": self.measured,
            "expected": self.expected,
            "advice": self.advice,
            "figures": dict(self.figures),
        }
        if self.slow_nodes or self.slow_ranks:
            record |= {"slow_nodes": list(self.slow_nodes), "slow_ranks": list(self.slow_ranks)}
        return record


@dataclass(frozen=True)
class Report:
    """All findings, and the facts about each node."""

    checks: list[Check]
    nodes: list[dict[str, Any]]
    seconds: float
    """How long the examination took."""

    def ok(self, *, strict: bool) -> bool:
        """Return whether no check has failed; with ``strict`` warnings count as failures."""
        bad = ("fail", "warn") if strict else ("fail",)
        return not any(check.status in bad for check in self.checks)

    def document(self, *, strict: bool) -> dict[str, Any]:
        """Return the report as one JSON object for programs."""
        return {
            "ok": self.ok(strict=strict),
            "seconds": self.seconds,
            "checks": [check.record() for check in self.checks],
            "nodes": [node | {"slow": self._slow_in(node["name"])} for node in self.nodes],
        }

    def _slow_in(self, node: str) -> list[str]:
        """Return the names of the checks that found this node slow."""
        return [check.name for check in self.checks if node in check.slow_nodes]


def worst(*statuses: Status) -> Status:
    """Return the worst of ``statuses``; ok if there are none."""
    order: tuple[Status, ...] = ("fail", "warn", "ok")
    return next((status for status in order if status in statuses), "ok")
