"""The inventory is the model that is built, its checkpoint on disk, and its export, on every layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.checkpoint.support import save_step
from tests.support.training import built, tiny_config
from tests.support.workers import Workers
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.offline.export import export_model
from unipool_dist.checkpoint.offline.locate import locate
from unipool_dist.checkpoint.offline.tensor_reader import TensorReader
from unipool_dist.comm.environment import Environment
from unipool_dist.model.families import inventory
from unipool_dist.model.inventory import TensorSpec, expert_name, split_key
from unipool_dist.pool.main_grad import zero_main_grad

BIASED = ("pool.router=sigmoid", "pool.balance.bias_rate=0.001")
VANILLA = ("pool.router=softmax", "pool.layers_per_group=1", "pool.num_experts=2")
DENSE = ("pool.router=none", "pool.num_experts=1", "pool.balance.loss=none")
CASES: dict[str, tuple[int, tuple[str, ...]]] = {
    "one": (1, ("train.dtype=bf16",)),
    "vanilla": (1, VANILLA),
    "dense": (1, DENSE),
    "bias-pp2": (2, (*BIASED, "parallel.pp=2", "train.dtype=bf16")),
    "sandwich-pp2": (2, ("model.family=sandwich", "parallel.pp=2")),
    "tp2": (2, ("parallel.tp=2", "model.num_layers=3")),
    "pp2-dp2-one-pool": (4, ("parallel.pp=2", "pool.parallel_size=4", "train.global_batch_size=4")),
}
DECAY, LR, ROUTER_SCALE = 1.0, 0.01, 8.0
COMMON = (
    "optimizer.name=sgd",
    f"optimizer.weight_decay={DECAY}",
    f"optimizer.lr={LR}",
    f"optimizer.router_lr_scale={ROUTER_SCALE}",
)


@dataclass
class Seen:
    """A tensor on a rank."""

    shape: tuple[int, ...]
    dtype: str
    is_trained: bool
    decay: float = 0.0
    """By how much of itself a step without gradient made it smaller."""


@dataclass
class Rank:
    layers: range
    is_first: bool
    is_last: bool
    dense: dict[str, Seen]
    experts: dict[str, Seen]


def _look(environment: Environment, overrides: tuple[str, ...], run_dir: Path) -> Rank:
    """Build, take a step without gradients, save."""
    plan = tiny_config(*COMMON, *overrides, world_size=environment.world_size)
    with built(plan, environment) as (groups, model, train_step):
        parameters = [*model.stage.named_parameters(), *model.named_expert_parameters()]
        before = [parameter.detach().float().clone() for _, parameter in parameters]
        for _, parameter in parameters:
            zero_main_grad(parameter)
        train_step.optimizer.step(train_step.optimizer.reduce_gradients())
        dense: dict[str, Seen] = {}
        experts: dict[str, Seen] = {}
        for (name, parameter), old in zip(parameters, before, strict=True):
            kept = torch.linalg.vecdot(parameter.detach().float().flatten(), old.flatten()) / old.square().sum()
            seen = Seen(tuple(parameter.shape), _name(parameter.dtype), True, 1.0 - kept.item())
            if parameter.dim() == 3:
                stack = Seen(seen.shape[1:], seen.dtype, True, seen.decay)
                experts |= {expert_name(expert, name): stack for expert in model.expert_ids}
            else:
                dense[name] = seen
        for name, buffer in model.named_untrained():
            dense[name] = Seen(tuple(buffer.shape), _name(buffer.dtype), False)
        save_step(plan, groups, model, train_step, run_dir, 1)
        return Rank(model.layer_range, groups.is_first_stage, groups.is_last_stage, dense, experts)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check(seen: Seen, spec: TensorSpec, run_dtype: str, tp: int) -> None:
    split = tuple(size // tp if dim == spec.tp_dim else size for dim, size in enumerate(spec.shape))
    assert (seen.shape, seen.is_trained) == (split, spec.trained), spec.name
    assert seen.dtype == ("float32" if spec.dtype == "fp32" else run_dtype), spec.name
    expected = spec.decays * DECAY * LR * (ROUTER_SCALE if spec.lr_group == "router" else 1.0)
    assert seen.decay == pytest.approx(expected if spec.trained else 0.0, abs=2e-3), spec.name


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_is_built_saved_and_exported(workers: Workers, tmp_path: Path, case: str) -> None:
    world_size, overrides = CASES[case]
    plan = tiny_config(*COMMON, *overrides, world_size=world_size)
    tensors = inventory(plan)
    whole = {spec.name: spec for spec in tensors}
    assert len(whole) == len(tensors)
    run_dtype = {"fp32": "float32", "bf16": "bfloat16"}[plan.train.dtype]

    ranks = workers.run(_look, world_size, overrides, tmp_path)
    for rank in ranks:
        of_stage = tensors.of_stage(rank.layers, is_first=rank.is_first, is_last=rank.is_last)
        assert rank.dense.keys() == {spec.name for spec in of_stage}
        for name, seen in (rank.dense | rank.experts).items():
            _check(seen, whole[name], run_dtype, plan.parallel.tp)
    assert {name for rank in ranks for name in rank.dense | rank.experts} == whole.keys()

    saved = TensorReader(CheckpointDirectory(tmp_path).folder(1)).tensors
    masters = {split_key(key)[1]: info for key, info in saved.items() if split_key(key)[0] == "master"}
    assert {name: (info.shape, info.dtype) for name, info in masters.items()} == {
        name: (spec.shape, "float32") for name, spec in whole.items()
    }

    record, _ = export_model(locate(tmp_path, 1), tmp_path / "export", "bf16", 1 << 30)
    assert record.num_parameters == sum(spec.numel for spec in tensors if spec.trained)
    with safe_open(tmp_path / "export" / "model.safetensors", framework="pt") as file:
        exported = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 it is no mapping
        assert {name: (tuple(tensor.get_shape()), tensor.get_dtype()) for name, tensor in exported.items()} == {
            name: (spec.shape, "F32" if spec.dtype == "fp32" else "BF16") for name, spec in whole.items()
        }


def test_every_tensor_is_found_by_its_name_and_no_other() -> None:
    tensors = inventory(tiny_config(*BIASED, "pool.layers_per_group=2"))
    assert [tensors.find(spec.name) for spec in tensors] == list(tensors)
    assert len(list(tensors)) == len(tensors) == sum(count for _, count in tensors.counted())
    for name in ("layers.4.router.weight", "layers.01.router.weight", "experts.32.down", "router.weight", "down", ""):
        assert tensors.find(name) is None, name
    assert tensors.find(f"layers.{'1' * 5000}.router.weight") is None


def test_a_huge_model_is_described_and_counted_at_once() -> None:
    plan = tiny_config("model.num_layers=10000", "pool.num_experts=100000")
    tensors = inventory(plan)
    assert len(tensors) == 3 + 6 * 10_000 + 2 * 100_000
    spec = tensors.find("experts.99999.down")
    assert spec is not None and spec.shape == (32, 48)
