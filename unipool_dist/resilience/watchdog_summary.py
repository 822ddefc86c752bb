"""Which ranks differ, and how: pure, from the reports of the ranks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import TypeVar

from unipool_dist.base.units import from_ranges, named_ranges
from unipool_dist.resilience.collectives import Collective
from unipool_dist.resilience.watchdog_report import Report

MAX_LINES = 8
"""Lines of each kind; the rest is only counted."""

Key = TypeVar("Key", bound=Hashable)


def summarize(reports: Mapping[int, Report], silent: Mapping[int, str]) -> list[str]:
    """Return a line that says which ranks differ from most, then one line per place for all ranks that are there.

    Args:
        reports: of the ranks that answered.
        silent: of those that did not, what is known of each.
    """
    differing = sorted(differing_ranks(reports, silent))
    steps = Counter(report.step for report in reports.values() if report.step is not None)
    usual_step = steps.most_common(1)[0][0] if steps else None
    at = "before its first step" if usual_step is None else f"in step {usual_step}"
    if differing:
        head = f"the run makes no progress {at}; {name(differing)} {'differs' if len(differing) == 1 else 'differ'}"
    else:
        circle = any(report.waits for report in reports.values())
        why = "the ranks wait for each other" if circle else "no rank waits for another"
        head = f"the run makes no progress {at}; {why}"
    silent_lines = [
        f"{name(ranks)} did not answer: {note}" for note, ranks in grouped(silent, lambda rank: silent[rank])
    ]
    waiting = {rank: report for rank, report in reports.items() if report.waits}
    lines = [head, *_short(silent_lines)]
    lines += _short(_outside(reports, waiting, usual_step))
    lines += _short(_inside(reports, waiting, silent, usual_step))
    return lines


def differing_ranks(reports: Mapping[int, Report], silent: Collection[int]) -> set[int]:
    """Return the ranks that others wait for and that wait for nobody; if there are none, those not where most are.

    Empty if no place holds more than half of the ranks: they wait in a circle.
    """
    ranks = set(silent) | {rank for rank, report in reports.items() if not report.waits}
    for members in _diverged(reports):
        ranks |= members
    if ranks:
        # All in Python, none waiting: nothing tells them apart.
        return ranks if len(ranks) < len(reports) + len(silent) else set()
    places = grouped(reports, lambda rank: _where_waiting(reports[rank]))
    largest = max((len(there) for _, there in places), default=0)
    if 2 * largest <= len(reports) or len(places) == 1:
        return set()
    return {rank for _, there in places if len(there) < largest for rank in there}


def _diverged(reports: Mapping[int, Report]) -> list[set[int]]:
    """Return ranks whose operation differs from that of most, though it has the same number in the same group."""
    operations: dict[tuple[str, int], dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for rank, report in reports.items():
        if report.collective is not None and report.waits and not report.collective.point_to_point:
            key = report.collective.group, report.collective.number
            operations[key][report.collective.operation].add(rank)
    found = []
    for by_operation in operations.values():
        sizes = sorted(map(len, by_operation.values()))
        if len(sizes) > 1 and sizes[-1] > sizes[-2]:
            found += [ranks for ranks in by_operation.values() if len(ranks) < sizes[-1]]
    return found


def _outside(reports: Mapping[int, Report], waiting: Mapping[int, Report], usual_step: int | None) -> list[str]:
    """Describe ranks that wait for nobody."""
    most = Counter(_key(report.collective) for report in waiting.values() if report.collective is not None)
    group, number = most.most_common(1)[0][0][:2] if most else ("", 0)

    def what(rank: int) -> str:
        report = reports[rank]
        step = "" if report.step in (None, usual_step) else f"step {report.step}, "
        text = f"not in a collective but at {report.place}; {step}{report.doing}"
        if report.collective is not None:
            text += f"; last completed: {report.collective}"
        if (behind := number - report.entered.get(group, number)) > 0:
            others = next(
                r.collective for r in waiting.values() if r.collective is not None and r.collective.group == group
            )
            text += f"; {behind} behind in {others.name}"
        return text

    outside = {rank: report for rank, report in reports.items() if rank not in waiting}
    verb = {True: "is", False: "are"}
    return [f"{name(ranks)} {verb[len(ranks) == 1]} {text}" for text, ranks in grouped(outside, what)]


def _inside(
    reports: Mapping[int, Report], waiting: Mapping[int, Report], silent: Collection[int], usual_step: int | None
) -> list[str]:
    """Describe ranks that wait for others, and for which."""
    lines = []
    places = grouped(waiting, lambda rank: _where_waiting(waiting[rank]))
    for _, ranks in sorted(places, key=lambda item: (-len(item[1]), item[1])):
        report = waiting[ranks[0]]
        subject = f"{name(ranks)} {'waits' if len(ranks) == 1 else 'wait'}"
        collective = report.collective
        if collective is None or collective.completed:
            steps = {waiting[rank].step for rank in ranks}
            at = "" if steps <= {usual_step} else f" in step {', '.join(map(str, sorted(steps, key=str)))}"
            lines.append(f"{subject} in a send or receive between two ranks{at}: {report.doing}")
            continue
        missing = [] if collective.point_to_point else _missing(collective, ranks, reports, silent)
        text = f"{subject} in {collective}"
        lines.append(text + (f", which {name(missing)} {_has(missing)} not entered" if missing else ""))
    return lines


def _missing(
    collective: Collective, inside: Collection[int], reports: Mapping[int, Report], silent: Collection[int]
) -> list[int]:
    """Return members of the group that have not entered ``collective``, as far as is known."""

    def lacks(rank: int) -> bool:
        if rank in inside:
            return False
        if rank in silent:
            return True
        report = reports.get(rank)
        if report is None:
            return False
        own = report.collective
        if own is not None and not own.completed and (own.group, own.number) == (collective.group, collective.number):
            return own.operation != collective.operation
        return report.entered.get(collective.group, 0) < collective.number

    return sorted(filter(lacks, from_ranges(collective.members)))


def _where_waiting(report: Report) -> tuple[Hashable, ...]:
    """Return what ranks that are in the same place have in common."""
    if report.collective is None or report.collective.completed:
        return "", 0, report.doing
    return _key(report.collective)


def _key(collective: Collective) -> tuple[str, int, str]:
    return collective.group, collective.number, collective.operation


def grouped(ranks: Collection[int], key: Callable[[int], Key]) -> list[tuple[Key, list[int]]]:
    """Group ranks with the same key, in the order of the lowest rank of each group."""
    found: dict[Key, list[int]] = {}
    for rank in sorted(ranks):
        found.setdefault(key(rank), []).append(rank)
    return list(found.items())


def name(ranks: Collection[int]) -> str:
    """Return ``rank 3`` or ``ranks 0-2,5``."""
    return named_ranges("rank", ranks, ",")


def _has(ranks: Collection[int]) -> str:
    return "has" if len(ranks) == 1 else "have"


def _short(lines: list[str]) -> list[str]:
    if len(lines) <= MAX_LINES:
        return lines
    return [*lines[: MAX_LINES - 1], f"and {len(lines) - MAX_LINES + 1} more places; see the files"]
