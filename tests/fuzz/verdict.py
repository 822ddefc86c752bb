"""What no input may cause, looked up in how a call ended."""

from __future__ import annotations

from tests.fuzz.audit import OPENED
from tests.fuzz.forked import MEMORY_LIMIT, Outcome
from tests.fuzz.place import SECRET
from unipool_dist.base.printable import printable

LEGAL_STATUSES = (0, 1, 2)
MAX_REFUSAL = 20_000
"""Characters of a refusal."""


def faults(outcome: Outcome, *, may_read: bool = False) -> list[str]:
    """Everything about the outcome that breaks a promise; empty: the input was taken, or refused as it should be.

    Args:
        may_read: files outside may be read and shown.
    """
    found = [event for event in outcome.events if not (may_read and event.startswith(OPENED))]
    if outcome.ended_by:
        found.append(outcome.ended_by)
    elif outcome.status not in LEGAL_STATUSES:
        found.append(f"exit status {outcome.status}")
    text = _text(outcome)
    if "Traceback (most recent call last)" in text:
        found.append(f"traceback: {_last_error(text)}")
    if printable(text, lines=True) != text:
        found.append(f"control characters: {_first_control(text)}")
    if SECRET in text and not may_read:
        found.append("the content of a file outside came out")
    if outcome.status:
        if not text.strip():
            found.append("refused without a word")
        if len(text) > MAX_REFUSAL:
            found.append(f"a refusal of {len(text):,} characters")
    if outcome.peak_bytes > MEMORY_LIMIT and "memory" not in outcome.ended_by:
        found.append(f"memory: {outcome.peak_bytes >> 20} MiB")
    return found


def _text(outcome: Outcome) -> str:
    """What was said; bytes that are no UTF-8 count as control characters."""
    return (outcome.stdout + b"\n" + outcome.stderr).decode("utf-8", errors="surrogateescape")


def _last_error(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line and not line.startswith(" ")]
    return printable(lines[-1])[:200]


def _first_control(text: str) -> str:
    line = next(line for line in text.split("\n") if printable(line, lines=True) != line)
    return printable(line)[:200]
