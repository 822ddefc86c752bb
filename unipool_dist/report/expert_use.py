"""Use of the experts near the end of a run, from ``expert_usage.jsonl``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unipool_dist.base.reading import parse_json, read_lines
from unipool_dist.errors import UnipoolError
from unipool_dist.observe.usage import Counts, UsageSummary, check_counts, summarize

TAIL = 0.1
"""Assignments are summed over this last part of training: in a single step, the busiest expert is so by chance."""

# What the file's lines begin with. Tables of large pools are long, and most lines are not needed.
_STEP = re.compile(r'\{"step": (\d{1,18}),')


@dataclass(frozen=True)
class Usage:
    """The sum of all tables recorded in the last tenth of training."""

    counts_LE: Counts
    num_pools: int
    num_windows: int
    summary: UsageSummary

    @property
    def effective_experts(self) -> float:
        """Mean over layers."""
        return float(self.summary.effective_experts_L.mean())


def read_usage(path: Path, last_step: int) -> Usage | None:
    """Read the use of experts in the last tenth of ``last_step`` steps; ``None`` if none was recorded there.

    Raises:
        UnipoolError: a line that is needed is damaged; the message names it.
    """
    total: Counts | None = None
    num_pools = num_windows = 0
    for number, record in _records(path, after=(1 - TAIL) * last_step):
        try:
            counts_LE = np.array(record["counts"], dtype=np.int64)
            check_counts(counts_LE, int(record["num_pools"]))
            if total is not None and (counts_LE.shape, record["num_pools"]) != (total.shape, num_pools):
                raise ValueError("its table has another form than the one before")
        except (KeyError, TypeError, ValueError, AssertionError) as error:
            raise _damaged(path, number, str(error)) from None
        total = counts_LE if total is None else total + counts_LE
        num_pools = int(record["num_pools"])
        num_windows += 1
    if total is None:
        return None
    return Usage(total, num_pools, num_windows, summarize(total, num_pools))


def _records(path: Path, after: float) -> list[tuple[int, dict[str, Any]]]:
    """Return line numbers and objects of steps later than ``after``, the last of each step.

    A truncated line is skipped.
    """
    found: dict[int, tuple[int, dict[str, Any]]] = {}
    try:
        for number, line in enumerate(read_lines(path), start=1):
            match = _STEP.match(line)
            if match and int(match[1]) <= after:
                continue
            try:
                record = parse_json(line)
                step = int(record["step"])
            except (KeyError, TypeError, ValueError, OverflowError):
                raise _damaged(path, number, "it is not a JSON object with a step") from None
            if step > after:
                found[step] = (number, record)
    except ValueError as error:
        raise UnipoolError(f"{path} cannot be read: {error}; remove it, or restore it from a copy") from None
    return [found[step] for step in sorted(found)]


def _damaged(path: Path, number: int, why: str) -> UnipoolError:
    return UnipoolError(
        f"{path}, line {number}, is not a table of expert use of this version ({why}); remove that line, or make the "
        f"report with the version that wrote it"
    )
