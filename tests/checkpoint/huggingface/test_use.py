"""What is done with models of transformers, done with an export, in a process without this project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint.huggingface.asking import needs_transformers
from unipool_dist.checkpoint.offline.export_format import read_export_record

pytestmark = needs_transformers


@pytest.mark.parametrize("way", ["cache", "static cache", "left padding", "beams", "drawn"])
def test_it_generates(way: str, used: dict[str, Any]) -> None:
    assert used[way] is True


def test_every_way_to_compute_gives_the_same(used: dict[str, Any]) -> None:
    assert max(used[way] for way in ("eager", "batched", "offloaded", "saved", "packed")) < 1e-5
    assert used["device_map"] == ["cpu", "disk"]
    assert used["bf16"] < 0.02
    types = dict(used["types"])
    assert types.pop("router") == "torch.float32" and set(types.values()) == {"torch.bfloat16"}


def test_the_pool_is_in_memory_once(used: dict[str, Any], exports: Path) -> None:
    assert used["parameters"] == read_export_record(exports / "norm-top3-normalized").num_parameters


def test_it_learns(used: dict[str, Any]) -> None:
    assert abs(used["loss"]) < 1e-6 and used["without gradient"] == 0
    assert used["checkpointing"] < 1e-6
    losses = used["losses"]
    assert len(losses) == 20 and losses[-1] < losses[0] / 2


def test_adapters_of_attention_learn(used: dict[str, Any]) -> None:
    assert used["learning"] == 4 * 4 * 2 and used["all lora"] and used["length"] == 9 + 12
