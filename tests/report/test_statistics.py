"""Means, errors and intervals against values worked out by hand or found in tables."""

from __future__ import annotations

import math

import pytest

from unipool_dist.report.statistics import Estimate, estimate, paired, t_quantile


def test_standard_error_is_the_sample_deviation_over_root_n() -> None:
    found = estimate([1.0, 2.0, 3.0, 6.0])  # deviations -2, -1, 0, 3: sum of squares 14
    assert found is not None
    assert (found.mean, found.n) == (3.0, 4)
    assert found.standard_error == pytest.approx(math.sqrt(14 / 3 / 4))
    assert found.low == pytest.approx(3 - 3.182446 * math.sqrt(14 / 12))
    assert found.high == pytest.approx(3 + 3.182446 * math.sqrt(14 / 12))


def test_one_value_has_no_error_and_two_have_no_interval() -> None:
    assert estimate([]) is None
    assert estimate([2.5]) == Estimate(2.5, 1, None, None, None)
    assert estimate([1.0, 3.0]) == Estimate(2.0, 2, 1.0, None, None)


def test_differences_are_taken_within_a_seed() -> None:
    found = paired({1: 3.0, 2: 5.0, 4: 7.0, 9: 100.0}, {1: 2.5, 2: 5.5, 4: 6.25, 3: -100.0})
    assert found is not None
    differences = [0.5, -0.5, 0.75]
    assert found.n == 3 and found.mean == pytest.approx(0.25)
    squares = sum((each - 0.25) ** 2 for each in differences)
    assert found.standard_error == pytest.approx(math.sqrt(squares / 2 / 3))
    assert found.high == pytest.approx(0.25 + 4.302653 * math.sqrt(squares / 6))


def test_what_a_seed_does_to_both_runs_cancels() -> None:
    found = paired({1: 3.25, 2: 4.25, 3: 9.25}, {1: 3.0, 2: 4.0, 3: 9.0})
    assert found == Estimate(0.25, 3, 0.0, 0.25, 0.25)


def test_without_a_common_seed_there_is_no_difference() -> None:
    assert paired({1: 3.0}, {2: 3.0}) is None


@pytest.mark.parametrize(
    ("degrees", "inside", "t"),
    [(1, 0.95, 12.7062), (2, 0.95, 4.30265), (3, 0.95, 3.18245), (4, 0.95, 2.77645), (5, 0.95, 2.57058),
     (9, 0.95, 2.26216), (10, 0.95, 2.22814), (30, 0.95, 2.04227), (1, 0.5, 1.0), (7, 0.99, 3.49948)],
)  # fmt: skip
def test_quantiles_of_student_are_those_of_the_tables(degrees: int, inside: float, t: float) -> None:
    assert t_quantile(degrees, inside) == pytest.approx(t, rel=1e-5)
