"""Layouts for the nodes that are there."""

from __future__ import annotations

import pytest

from unipool_dist.config import Config, load_config
from unipool_dist.errors import TopologyError, UnipoolError
from unipool_dist.jobs.task_layout import choose_layout


def config(*overrides: str) -> Config:
    return load_config(
        None, ("train.global_batch_size=12", "train.micro_batch_size=1", "pool.num_experts=12", *overrides)
    )


@pytest.mark.parametrize(("nodes", "dp"), [(1, 1), (2, 2), (3, 3), (4, 4), (6, 6)])
def test_dp_follows_the_nodes(nodes: int, dp: int) -> None:
    layout = choose_layout(config("parallel.pp=2"), [f"n{i}" for i in range(nodes)], 2)
    assert layout.plan.parallel.dp == dp and layout.num_tasks == 2 * nodes and len(layout.nodes) == nodes


def test_the_pool_follows_too() -> None:
    names = ["a", "b", "c", "d"]
    sizes = {n: choose_layout(config(), names[:n], 1).plan.pool.parallel_size for n in (1, 2, 3, 4)}
    assert sizes == {1: 1, 2: 2, 3: 3, 4: 4}


def test_nodes_that_fit_no_batch_stay_unused() -> None:
    layout = choose_layout(config(), ["a", "b", "c", "d", "e"], 1)  # 12 sequences over 5 ranks do not go
    assert layout.nodes == ("a", "b", "c", "d") and layout.num_tasks == 4


def test_a_node_may_be_used_in_part() -> None:
    layout = choose_layout(config("parallel.pp=3"), ["a", "b"], 2)
    assert layout.num_tasks == 3 and layout.nodes == ("a", "b")
    with pytest.raises(TopologyError, match="launcher: torchrun"):
        choose_layout(config("parallel.pp=3"), ["a", "b"], 2, whole_nodes=True)


def test_a_fixed_dp_is_kept() -> None:
    layout = choose_layout(config("parallel.dp=2"), ["a", "b", "c"], 1)
    assert layout.num_tasks == 2 and layout.nodes == ("a", "b")


def test_too_few_nodes_is_an_error_that_says_how_many() -> None:
    with pytest.raises(UnipoolError, match=r"parallel\.dp=4 needs 4 processes"):
        choose_layout(config("parallel.dp=4"), ["a", "b"], 1)
    with pytest.raises(UnipoolError, match=r"parallel\.pp=4"):
        choose_layout(config("parallel.pp=4"), ["a", "b"], 1)


def test_a_job_whose_batch_has_grown_takes_nodes_that_its_first_stage_could_not_use() -> None:
    staged = config("stages=[{from_step: 11, train.global_batch_size: 48}]")  # from 12
    nodes = [f"n{i}" for i in range(8)]
    assert len(choose_layout(staged, nodes, 1).nodes) == 6
    assert len(choose_layout(staged, nodes, 1, from_step=11).nodes) == 8
