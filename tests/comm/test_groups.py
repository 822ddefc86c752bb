"""Process groups: made by every rank in one order with the configured timeout; the pool owned once per pool group."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch.distributed as dist

from tests.support.training import tiny_config
from tests.support.workers import Workers, free_port
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.groups import process_groups
from unipool_dist.model.assembly import build_model


def _describe(environment: Environment, overrides: tuple[str, ...], port: int) -> dict[str, Any]:
    config = tiny_config(*overrides, world_size=environment.world_size)
    made: list[tuple[tuple[int, ...], float]] = []
    new_group = dist.new_group

    def recording(ranks: Any = None, timeout: Any = None, **kwargs: Any) -> Any:
        made.append((tuple(ranks), timeout.total_seconds()))
        return new_group(ranks, timeout=timeout, **kwargs)

    dist.new_group = recording  # type: ignore[assignment]
    try:
        with process_groups(config, replace(environment, master_port=port)) as groups:
            model = build_model(config, groups)
            parameters = sum(p.numel() for _, p in model.named_expert_parameters())
            return {
                "made": made,
                "experts": model.expert_ids,
                "expert_parameters": parameters,
                "pool": tuple(dist.get_process_group_ranks(groups.pool)),
                "replicas": tuple(dist.get_process_group_ranks(groups.expert_data)),
            }
    finally:
        dist.new_group = new_group


@pytest.mark.parametrize(
    ("world", "overrides"),
    [
        (1, ()),
        (2, ("parallel.pp=2",)),
        (4, ("parallel.pp=4",)),
        (4, ("parallel.pp=2", "pool.parallel_size=2")),
        (4, ("parallel.pp=2", "pool.parallel_size=2", "pool.stages_per_group=1")),
        (8, ("parallel.pp=4",)),
        (8, ("parallel.pp=2", "parallel.tp=2")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_every_pool_group_owns_the_pool_exactly_once(workers: Workers, world: int, overrides: tuple[str, ...]) -> None:
    ranks = workers.run(_describe, world, overrides, free_port() if world > 1 else 0)
    q = len(ranks[0]["pool"])
    one_expert = 3 * 32 * 48
    for group in {rank["pool"] for rank in ranks}:
        members = [ranks[rank] for rank in group]
        assert sorted(expert for rank in members for expert in rank["experts"]) == list(range(16))
        assert sum(rank["expert_parameters"] for rank in members) == 16 * one_expert, "whatever pp is"
        assert all(rank["expert_parameters"] <= 16 // q * one_expert for rank in members)
    for index, rank in enumerate(ranks):
        assert index in rank["replicas"] and len(rank["replicas"]) == world // q
        assert all(ranks[other]["experts"] == rank["experts"] for other in rank["replicas"])


def test_vanilla_moe_with_a_pool_per_stage_holds_only_the_layers_of_its_stage(workers: Workers) -> None:
    overrides = ("parallel.pp=2", "pool.layers_per_group=1", "pool.stages_per_group=1")
    ranks = workers.run(_describe, 4, overrides, free_port())
    assert sorted(e for rank in (0, 1) for e in ranks[rank]["experts"]) == list(range(32))
    assert sorted(e for rank in (2, 3) for e in ranks[rank]["experts"]) == list(range(32, 64))
    assert all(rank["replicas"] == (index,) for index, rank in enumerate(ranks))


def test_all_ranks_make_all_groups_in_the_same_order_with_the_timeout(workers: Workers) -> None:
    ranks = workers.run(_describe, 4, ("parallel.pp=2", "pool.parallel_size=2", "parallel.timeout_s=77"), free_port())
    for rank in ranks:
        assert rank["made"] == ranks[0]["made"]
    ours = ranks[0]["made"][-5:]
    assert ours == [((0, 2), 77.0), ((1, 3), 77.0), ((0, 1), 77.0), ((2, 3), 77.0), ((0, 1, 2, 3), 77.0)]
