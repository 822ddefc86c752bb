"""Means over seeds and their confidence. Plain arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

INTERVAL_FROM = 3
"""Number of values from which an interval is given: for two it would be 13 standard errors wide on either side."""


@dataclass(frozen=True)
class Estimate:
    """A mean of independent values."""

    mean: float
    n: int
    standard_error: float | None
    """Standard deviation of the values (n - 1) over sqrt(n); ``None`` for a single value."""
    low: float | None
    """Lower end of the 95 % interval of Student's t; ``None`` for fewer than ``INTERVAL_FROM`` values."""
    high: float | None


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return the mean of ``values`` and its error; ``None`` if there are none."""
    n = len(values)
    if not n:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, n, None, None, None)
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    if n < INTERVAL_FROM:
        return Estimate(mean, n, error, None, None)
    reach = t_quantile(n - 1) * error
    return Estimate(mean, n, error, mean - reach, mean + reach)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate | None:
    """Return the mean of ``values - baseline`` over the seeds that are in both; ``None`` if there are none.

    A seed decides initial weights and order of the data, so their effects on both runs cancel.
    """
    return estimate([values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())])


def t_quantile(degrees: int, inside: float = 0.95) -> float:
    """Return the t for which Student's distribution has the share ``inside`` between -t and t."""
    assert degrees >= 1 and 0 < inside < 1, (degrees, inside)
    low, high = 0.0, 1.0
    while _share_within(high, degrees) < inside:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if _share_within(middle, degrees) < inside:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _share_within(t: float, degrees: int) -> float:
    """Return P(-t < T < t).

    By the finite series for whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4).
    """
    angle = math.atan(t / math.sqrt(degrees))
    cosine = math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(1 + odd, degrees, 2):  # terms cos, 2/3 cos^3, ... or 1, 1/2 cos^2, ...
        total += term
        term *= k / (k + 1) * cosine * cosine
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
