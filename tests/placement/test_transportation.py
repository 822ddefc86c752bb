"""Things to places of given room at the least cost: against scipy's assignment, and what prices prove."""

from __future__ import annotations

import numpy as np
import pytest

from unipool_dist.placement.transportation import assign

optimize = pytest.importorskip("scipy.optimize", reason="scipy comes with the extra eval")


@pytest.mark.parametrize("seed", range(8))
def test_the_cost_is_the_least_and_the_bound_is_below_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    places = int(rng.integers(1, 7))
    room = rng.integers(0 if places > 1 else 1, 9, places)
    room[0] += 1
    cost = rng.normal(size=(room.sum(), places)) * 10.0 ** rng.integers(-6, 6)
    found = assign(cost, room)
    assert np.bincount(found.place_E, minlength=places).tolist() == room.tolist()
    of_seat = np.repeat(cost, room, axis=1)
    things, seats = optimize.linear_sum_assignment(of_seat)
    least = of_seat[things, seats].sum()
    np.testing.assert_allclose(found.cost, least, rtol=1e-9, atol=1e-9 * np.abs(cost).max())
    assert found.bound <= least + 1e-9 * np.abs(cost).sum()


def test_equal_costs_and_prices_of_another_problem() -> None:
    room = np.array([2, 3])
    assert np.bincount(assign(np.zeros((5, 2)), room).place_E).tolist() == [2, 3]
    cost = np.random.default_rng(0).normal(size=(5, 2))
    assert assign(cost, room, np.array([1e6, -1e6])).cost == pytest.approx(assign(cost, room).cost)
