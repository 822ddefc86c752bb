"""What a campaign has found, for people."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from tests.fuzz.runner import Tried
from unipool_dist.base.printable import aligned

_EXAMPLES = 3


def table(tried: Sequence[Tried]) -> list[str]:
    """A line for each class, and one for all."""
    by_class: dict[str, list[Tried]] = defaultdict(list)
    for each in tried:
        by_class[each.kind].append(each)
    rows = [_row(kind, some) for kind, some in by_class.items()]
    head = ("class", "inputs", "accepted", "refused", "failed", "slowest", "most memory")
    return aligned([head, *rows, _row("total", tried)])


def causes(tried: Sequence[Tried], seed: int) -> str:
    """What has failed, by cause, with the commands that try a few again; empty if nothing has."""
    by_cause: dict[str, list[Tried]] = defaultdict(list)
    for each in tried:
        for fault in each.faults:
            by_cause[f"{each.kind}: {_cause(fault)}"].append(each)
    lines = []
    for cause, some in sorted(by_cause.items(), key=lambda item: -len(item[1])):
        lines.append(f"{len(some)} x {cause}")
        lines += [
            f"    make fuzz FUZZ_ARGS='--class {each.kind} --seed {seed} --only {each.number}'    # {each.what}"
            for each in some[:_EXAMPLES]
        ]
    return "".join(f"{line}\n" for line in lines)


def _row(kind: str, tried: Sequence[Tried]) -> tuple[str, ...]:
    failed = sum(bool(each.faults) for each in tried)
    accepted = sum(each.accepted and not each.faults for each in tried)
    return (
        kind,
        f"{len(tried):,}",
        f"{accepted:,}",
        f"{len(tried) - accepted - failed:,}",
        f"{failed:,}",
        f"{max(each.seconds for each in tried):.1f} s",
        f"{max(each.peak_bytes for each in tried) >> 20} MiB",
    )


def _cause(fault: str) -> str:
    """The fault without what differs from input to input: places and numbers."""
    return re.sub(r"\d+(\.\d+)?", "N", re.sub(r"/\S*", "PATH", fault))[:160]
