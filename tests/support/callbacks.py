"""Callbacks that remember what they were called with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from unipool_dist.engine.callback import Callback, Record, SaveReport, Stop, stop


class Saves(Callback):
    """The reports of saves, in order."""

    def __init__(self, reports: list[SaveReport]) -> None:
        self.reports = reports

    def save_done(self, report: SaveReport) -> None:
        self.reports.append(report)


class Seen(Callback):
    """Records with their assignments, and the steps of evaluations; says stop after the step ``stop_after``."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.lines: list[tuple[dict[str, float | int], list[list[int]]]] = []
        self.evaluated: list[int] = []
        self._stop_after, self._polls = stop_after, 0

    def should_stop(self) -> Stop | None:
        self._polls += 1
        return stop("enough") if self._polls == self._stop_after else None

    def record(self, record: Record, assignments: Tensor) -> None:
        self.lines.append((dict(record), assignments.tolist()))

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        self.evaluated.append(step)


class Named(Callback):
    """The names of the moments in the order in which they come, without ``doing``."""

    def __init__(self, moments: Iterable[str]) -> None:
        self.calls: list[str] = []
        for moment in moments:
            setattr(self, moment, self._noting(moment))

    def _noting(self, moment: str) -> object:
        return lambda *arguments, **options: self.calls.append(moment)
