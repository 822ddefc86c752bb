"""Every element once, in an order without a pattern, at any size."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipool_dist.data.permutation import Permutation


@settings(deadline=None)  # others use the machine
@given(st.integers(1, 1000), st.binary(max_size=8))
def test_every_element_comes_once(size: int, key: bytes) -> None:
    permutation = Permutation(size, key)
    assert sorted(permutation[i] for i in range(size)) == list(range(size))


def test_values_are_for_all_time() -> None:
    """Or a resumed run would go on with other text."""
    assert [Permutation(10, b"key")[i] for i in range(10)] == [1, 6, 0, 5, 2, 4, 3, 8, 9, 7]
    assert [Permutation(10**12, b"key")[i] for i in (0, 1, 10**12 - 1)] == [851304575521, 436473325416, 209035423991]


@pytest.mark.parametrize("size", [5, 6, 24])
def test_small_permutations_are_drawn_evenly(size: int) -> None:
    """Over many keys each element is as often at each place, and pairs of places are as often in either order."""
    draws = 1500
    orders = np.array([[Permutation(size, b"%d" % k)[i] for i in range(size)] for k in range(draws)])
    expected = draws / size
    for place in range(size):
        counts = np.bincount(orders[:, place], minlength=size)
        assert ((counts - expected) ** 2 / expected).sum() < size + 6 * math.sqrt(2 * size)
    for a, b in itertools.combinations(range(min(size, 6)), 2):
        assert abs((orders[:, a] < orders[:, b]).mean() - 0.5) < 5 * 0.5 / math.sqrt(draws)


@pytest.mark.parametrize("size", [10_007, 10**9, 10**12])
def test_neighbours_are_uncorrelated(size: int) -> None:
    permutation, count = Permutation(size, b"some key"), 8000
    values = np.array([permutation[i] for i in range(count)]) / size
    limit = 4 / math.sqrt(count)
    assert abs(values.mean() - 0.5) < limit * 0.29
    for distance in (1, 2, 3, 100, math.isqrt(size - 1) + 1):  # the last: what has the same half in the network
        if distance < count:
            assert abs(np.corrcoef(values[:-distance], values[distance:])[0, 1]) < limit
    steps = np.diff(values) % 1.0  # of a permutation without pattern these are uniform as well
    counts = np.histogram(steps, bins=50, range=(0, 1))[0]
    assert ((counts - count / 50) ** 2 / (count / 50)).sum() < 50 + 4 * 10


def test_keys_give_independent_permutations() -> None:
    first, second = ([Permutation(5000, key)[i] for i in range(5000)] for key in (b"1", b"2"))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 10
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(5000)
