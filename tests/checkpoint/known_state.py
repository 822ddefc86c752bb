"""A model and optimizer filled with values that only their place has, and the check that all are where they belong.

Goes through DeepSpeed's own interface to fragments, so nothing here shares code with what is tested. Runs in worker
processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor, nn

from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.comm.megatron_import import without_trackers
from unipool_dist.config import Plan
from unipool_dist.engine.optim.deepspeed_zero import DeepSpeedZero
from unipool_dist.engine.step import TrainStep
from unipool_dist.model.assembly import PooledModel
from unipool_dist.model.inventory import spec_of

with without_trackers():
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

KINDS = ("master", "exp_avg", "exp_avg_sq")


@cache
def known(kind: str, name: str, shape: tuple[int, ...]) -> Tensor:
    """Values that no other tensor has; of expert i, all near i."""
    seed = int.from_bytes(hashlib.sha256(f"{kind}/{name}".encode()).digest()[:6], "little")
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    if name.startswith("experts."):
        values += float(name.split(".")[1])
    return values


def fill(groups: ParallelGroups, model: PooledModel, train_step: TrainStep, salt: str = "") -> None:
    """Write the known values, or with a ``salt`` others, into masters, moments and parameters. All ranks together."""
    _make_moments_known_to_deepspeed(train_step)
    for kind, _, parameter, value in _expected(groups, model, salt):
        if kind == "master":
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, kind)
    train_step.optimizer.finish_loading(train_step.optimizer.num_steps)


def differences(groups: ParallelGroups, model: PooledModel, train_step: TrainStep) -> list[str]:
    """Names of tensors on this rank, parameters included, that are not the known values bit for bit."""
    _make_moments_known_to_deepspeed(train_step)
    wrong = []
    for kind, name, parameter, value in _expected(groups, model, ""):
        if kind == "master" and not torch.equal(parameter.detach(), value.to(parameter.dtype)):
            wrong.append(f"parameter {name}")
        fragment = parameter._hp_mapping  # type: ignore[attr-defined]
        if fragment is not None:
            address = fragment.lp_fragment_address
            found = fragment.get_hp_fragment(None if kind == "master" else kind)
            if not torch.equal(found, value.flatten()[address.start : address.start + address.numel]):
                wrong.append(f"{kind} {name}")
    return wrong


def _make_moments_known_to_deepspeed(train_step: TrainStep) -> None:
    """It links them with parameters after its own first step, and then not all of them."""
    for optimizer in train_step.optimizer._optimizers:
        optimizer.state_shards()  # makes the moments if there are none
        assert isinstance(optimizer, DeepSpeedZero)
        optimizer._zero._hp_optimizer_states_linked = False
        optimizer._zero._lazy_init_hp_params_optimizer_state()


def _expected(groups: ParallelGroups, model: PooledModel, salt: str) -> Iterator[tuple[str, str, nn.Parameter, Tensor]]:
    for kind in KINDS:
        for name, parameter in model.named_dense_parameters():
            dim = spec_of(parameter).tp_dim
            shape = list(parameter.shape)
            if dim is None:
                yield kind, name, parameter, known(kind + salt, name, tuple(shape))
            else:
                shape[dim] *= groups.grid.tp
                whole = known(kind + salt, name, tuple(shape))
                yield kind, name, parameter, whole.chunk(groups.grid.tp, dim)[groups.tp_index].contiguous()
        for name, parameter in model.named_expert_parameters():
            each = [known(kind + salt, f"experts.{i}.{name}", tuple(parameter.shape[1:])) for i in model.expert_ids]
            yield kind, name, parameter, torch.stack(each)


def tensors_on_disk(config: Plan) -> set[str]:
    """Canonical names of everything that a checkpoint of this AdamW run must hold, written down independently."""
    dense = ["embedding.weight", "output.weight", "final_norm.weight"]
    for layer in range(config.model.num_layers):
        dense += [
            f"layers.{layer}.{name}"
            for name in (
                "attention_norm.weight",
                "attention.qkv.weight",
                "attention.output.weight",
                "pool_norm.weight",
                "router.weight",
                "router.scale",
            )
        ]
    experts = config.pool.num_experts * config.model.num_layers // config.pool.layers_per_group
    names = dense + [f"experts.{i}.{name}" for i in range(experts) for name in ("gate_up", "down")]
    return {f"{kind}/{name}" for kind in KINDS for name in names} | {"balance/share", "balance/latest", "random/torch"}
