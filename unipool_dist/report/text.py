"""Numbers as printed on the page."""

from __future__ import annotations

from unipool_dist.report.statistics import Estimate

NOTHING = "—"


def minus(shown: str) -> str:
    """Return ``shown`` with a real minus sign, as wide as a plus."""
    return shown.replace("-", "\N{MINUS SIGN}")


def loss(value: float | None) -> str:
    """Return ``3.2145``; nats per token."""
    return NOTHING if value is None else f"{value:.4f}"


def difference(value: float | None) -> str:
    """Return ``+0.0123``, or with a minus."""
    return NOTHING if value is None else minus(f"{value:+.4f}")


def tick(value: float) -> str:
    """Return the label on an axis of differences: ``+0.05``, ``0``."""
    return minus(f"{value:+g}") if value else "0"


def count(value: float | None) -> str:
    """Return ``8,120``."""
    return NOTHING if value is None else f"{value:,.0f}"


def large(value: float | None) -> str:
    """Return ``41.9 M``: three digits and a unit."""
    if value is None:
        return NOTHING
    for unit, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * factor:
            scaled = value / factor
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{digits}f} {unit}"
    return f"{value:.0f}"


def ratio(value: float | None) -> str:
    """Return ``1.32``."""
    return NOTHING if value is None else f"{value:.2f}"


def number(value: float | None) -> str:
    """Return ``21.3``."""
    return NOTHING if value is None else f"{value:.1f}"


def percent(value: float | None) -> str:
    """Return ``43.1 %``."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def mean(value: Estimate | None) -> float | None:
    """Return the mean, if there is one."""
    return None if value is None else value.mean


def error(value: Estimate | None) -> str:
    """Return `` ± 0.0021``, nothing where there is no mean, a dash for a single value."""
    if value is None:
        return ""
    return f"± {NOTHING if value.standard_error is None else f'{value.standard_error:.4f}'}"


def interval(value: Estimate | None) -> str:
    """Return ``+0.0100 to +0.0300``, or nothing."""
    if value is None or value.low is None:
        return ""
    return f"{difference(value.low)} to {difference(value.high)}"
