"""Samples are dealt to domains by weight, close to it at every prefix, and counted without going through them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipool_dist.data.blend import Blend

WEIGHTS = st.lists(st.floats(1e-3, 1e3) | st.integers(1, 10**12), min_size=1, max_size=9)


def named(weights: list[float]) -> dict[str, float]:
    return {f"domain{i}": weight for i, weight in enumerate(weights)}


@settings(deadline=None)  # others use the machine
@given(WEIGHTS)
def test_every_prefix_is_within_the_bound_and_counted(weights: list[float]) -> None:
    blend, total = Blend(named(weights)), sum(weights)
    assert blend.bound <= {1: 0.0, 2: 0.5, 3: 1.0}.get(len(weights), 1.999)
    seen: Counter[str] = Counter(dict.fromkeys(named(weights), 0))
    for n in range(150):
        assert blend.counts(n) == seen
        name, before = blend.place(n)
        assert before == seen[name], "the samples of a domain are numbered without a gap"
        seen[name] += 1
        for domain, weight in named(weights).items():
            assert abs(seen[domain] - (n + 1) * weight / total) <= blend.bound + 1e-6


@settings(deadline=None)
@given(WEIGHTS, st.integers(0, 10**15))
def test_it_is_as_close_after_any_number_of_samples(weights: list[float], n: int) -> None:
    blend, whole = Blend(named([int(w) + 1 for w in weights])), [int(w) + 1 for w in weights]
    counts = blend.counts(n)
    assert sum(counts.values()) == n
    for i, weight in enumerate(whole):  # in whole numbers, as floats are too coarse
        assert abs(counts[f"domain{i}"] * sum(whole) - n * weight) <= blend.bound * sum(whole) + 1
    name, before = blend.place(n)
    assert counts[name] == before


def test_it_is_closer_than_taking_the_domain_with_the_largest_deficit() -> None:
    """Which is what Megatron-core does."""
    draw = np.random.default_rng(1)
    for num_domains in (3, 5, 8):
        weights = draw.dirichlet([0.7] * num_domains)
        taken, most = np.zeros(num_domains), 0.0
        for n in range(5000):
            taken[np.argmax(weights * max(n, 1) - taken)] += 1
            most = max(most, abs(taken - weights * (n + 1)).max())
        blend = Blend(named(list(weights)))
        counts = np.array([list(blend.counts(n).values()) for n in range(0, 5000, 7)])
        order = [list(blend.counts(0)).index(f"domain{i}") for i in range(num_domains)]
        apart = abs(counts[:, order] - np.arange(0, 5000, 7)[:, None] * weights).max()
        assert apart <= blend.bound and apart < most


@pytest.mark.parametrize("scale", [1.0, 3.0, 1e-300])
def test_only_the_proportions_of_weights_count(scale: float) -> None:
    weights = {"a": 1.0, "b": 0.5, "c": 2.0, "d": 4.0}
    scaled = Blend({name: weight * scale for name, weight in reversed(weights.items())})
    assert [scaled.place(n) for n in range(200)] == [Blend(weights).place(n) for n in range(200)]


def test_weights_ever_smaller_make_no_recursion() -> None:
    assert sum(Blend({str(i): 2.0**-i for i in range(1000)}).counts(10**6).values()) == 10**6
