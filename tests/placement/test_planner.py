"""The planner: never worse than its bound allows, near the best there is, the same on every machine."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from tests.placement.uses import traffic, use
from unipool_dist.placement.planner import kept_in_place, plan_placement
from unipool_dist.placement.traffic import Topology, Traffic, contiguous_owners


@pytest.mark.parametrize("per_node", [None, 2, 4, 8])
@pytest.mark.parametrize("own", [0.4, 0.7, 0.95])
def test_a_placement_is_near_the_bound_and_better_than_neighbours(own: float, per_node: int | None) -> None:
    """1.08 of the proved bound: experts are many and none of them dominates."""
    seen = traffic(use(8, 256, own=own, seed=3), 4, 8, per_node=per_node)
    planned, neighbours = plan_placement(seen), seen.cost(contiguous_owners(256, 8))
    assert np.bincount(planned.owner_E, minlength=8).tolist() == [32] * 8
    assert planned.bound <= planned.cost.total <= 1.08 * planned.bound
    assert planned.cost.total < neighbours.total and planned.cost.busiest_over_mean < 1.05
    if own == 0.95 and seen.topology.num_nodes == 4:
        assert planned.cost.crossing_share < 0.1 < 0.7 < neighbours.crossing_share


def test_with_one_expert_that_dominates() -> None:
    rows = use(8, 64, own=0.6, seed=1)
    rows[3, 5] += 6 * rows.sum() // 64  # as busy as six others, almost all of it from one layer
    planned = plan_placement(traffic(rows, 4, 8))
    assert planned.cost.total <= 1.2 * planned.bound


@pytest.mark.parametrize("seed", range(6))
def test_of_few_experts_the_best_is_found_or_nearly(seed: int) -> None:
    rows = np.random.default_rng(seed).integers(0, 50, (2, 6))
    seen = traffic(rows, 2, 2, crossing_cost=1.5)
    every = {tuple(sorted(order[:3])) for order in permutations(range(6))}
    costs = [seen.cost(np.array([0 if expert in first else 1 for expert in range(6)])).total for first in every]
    planned = plan_placement(seen)
    assert planned.bound <= min(costs) + 1e-9
    assert min(costs) - 1e-9 <= planned.cost.total <= 1.05 * min(costs)


def test_a_later_window_is_served_nearly_as_well() -> None:
    """Rows are drawn anew with the same shares: planned on one window, judged on the next."""
    mean, rng = use(8, 128, own=0.7, seed=2), np.random.default_rng(0)
    windows = [np.stack([rng.multinomial(20_000, row / row.sum()) for row in mean]) for _ in range(2)]
    owner, later = plan_placement(traffic(windows[0], 4, 8)).owner_E, traffic(windows[1], 4, 8)
    assert later.cost(owner).total < 1.08 * plan_placement(later).cost.total
    assert later.cost(owner).total < 0.7 * later.cost(contiguous_owners(128, 8)).total


def test_nothing_seen_and_one_rank() -> None:
    idle = plan_placement(traffic(np.zeros((4, 16), dtype=np.int64), 2, 4))
    assert np.bincount(idle.owner_E).tolist() == [4] * 4 and idle.cost.total == idle.bound == 0
    alone = plan_placement(traffic(use(2, 8, own=0.5), 1, 1))
    assert alone.owner_E.tolist() == [0] * 8 and alone.cost.busiest_over_mean == pytest.approx(1)


def test_planned_twice_it_is_the_same() -> None:
    first, second = (plan_placement(traffic(use(8, 128, own=0.6, seed=9), 4, 16, per_node=8)) for _ in range(2))
    assert first.owner_E.tolist() == second.owner_E.tolist() and first.bound == second.bound


def test_stages_on_parts_of_nodes() -> None:
    """Three ranks to a node and two to a stage: of the middle stage's rows half cross, to either node."""
    topology = Topology(3, np.array([0, 0, 0, 1, 1, 1]))
    assert topology.away.tolist() == [[0, 1], [0.5, 0.5], [1, 0]]
    rows = np.zeros((3, 1, 6))
    rows[1, 0, 0] = 8
    cost = Traffic(rows, topology, crossing_cost=1.0).cost(contiguous_owners(6, 6))
    assert cost.crossing_share == 0.5
    assert cost.total == 8 + 2  # computed by one rank; each of the stage's ranks sends 2 of its 4 rows away


def test_ranks_of_a_node_keep_what_they_have() -> None:
    before = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    renamed = np.array([1, 1, 0, 0, 3, 2, 2, 3])
    kept = kept_in_place(renamed, before, np.array([0, 0, 1, 1]))
    assert kept.tolist() == [0, 0, 1, 1, 2, 3, 3, 2] or kept.tolist() == [0, 0, 1, 1, 3, 2, 2, 3]
    assert kept_in_place(before, before, np.array([0, 0, 0, 0])).tolist() == before.tolist()
