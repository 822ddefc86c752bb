"""The table of places: every row of every tensor is in one place of one public tensor, and fills it."""

from __future__ import annotations

import pytest

from tests.checkpoint.huggingface.models import MODELS
from tests.support.training import tiny_config
from unipool_dist.checkpoint.huggingface.names import LLAMA, MIXTRAL, UNIPOOL, Dialect, places, public_tensors
from unipool_dist.model.families import inventory

CASES: list[tuple[str, Dialect]] = [*((name, UNIPOOL) for name in MODELS), ("dense", LLAMA), ("mixtral", MIXTRAL)]


@pytest.mark.parametrize(("name", "dialect"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_every_row_has_one_place(name: str, dialect: Dialect) -> None:
    plan = tiny_config(*MODELS[name])
    tensors = {tensor.name: tensor for tensor in public_tensors(plan, dialect)}
    assert sum(tensor.numel for tensor in tensors.values()) == sum(spec.numel for spec in inventory(plan))
    filled: set[tuple[str, int | None, int]] = set()
    for spec in inventory(plan):
        rows = places(spec, plan, dialect)
        assert [part.first for part in rows] == [sum(p.count for p in rows[:i]) for i in range(len(rows))]
        assert sum(part.count for part in rows) == spec.shape[0]
        for part in rows:
            shape = tensors[part.name].shape[0 if part.entry is None else 1 :]
            assert shape[1:] == spec.shape[1:] and part.at + part.count <= shape[0]
            new = {(part.name, part.entry, row) for row in range(part.at, part.at + part.count)}
            assert not new & filled
            filled |= new
    assert len(filled) == sum(spec.shape[0] for spec in inventory(plan))


def test_queries_keys_and_values_are_taken_apart_group_by_group() -> None:
    plan = tiny_config("model.num_query_groups=2")  # 4 heads of width 8: two queries, a key and a value in each group
    spec = inventory(plan).find("layers.1.attention.qkv.weight")
    assert spec is not None
    assert [(part.first, part.count, part.name[-13], part.at) for part in places(spec, plan, UNIPOOL)] == [
        (0, 16, "q", 0),
        (16, 8, "k", 0),
        (24, 8, "v", 0),
        (32, 16, "q", 16),
        (48, 8, "k", 8),
        (56, 8, "v", 8),
    ]


def test_an_expert_is_an_entry_of_its_pool() -> None:
    plan = tiny_config("pool.layers_per_group=2", "pool.num_experts=4")
    spec = inventory(plan).find("experts.6.down")
    assert spec is not None
    (rows,) = places(spec, plan, UNIPOOL)
    assert (rows.name, rows.entry, rows.at, rows.count) == ("model.pools.1.down_proj", 2, 0, 32)
