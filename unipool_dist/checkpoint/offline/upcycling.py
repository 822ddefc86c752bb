"""A dense model as the beginning of one with pools (sparse upcycling, arXiv 2212.05055): its FFNs become experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from unipool_dist.checkpoint.offline.incoming import Incoming, Read
from unipool_dist.config import Config, Plan, resolve_model
from unipool_dist.config.overrides import apply_override
from unipool_dist.config.validation import validated
from unipool_dist.errors import CheckpointError, ConfigError
from unipool_dist.model.families import inventory
from unipool_dist.model.initialization import initial_values
from unipool_dist.model.inventory import Inventory, expert_name, split_name


def upcycled(model: Incoming, chosen: Sequence[str], noise: float) -> Incoming:
    """Return a model with pools whose experts begin as copies of the FFNs of a dense one.

    The experts of a pool are shared out evenly among its layers, in order: with M experts for G layers, expert ``e`` is
    a copy of the FFN of the ``e * G // M``-th of them. To each matrix noise is added. Routers are drawn as for a new
    model; everything else is the dense model's.

    Args:
        chosen: ``pool.field=value``; the section begins with its defaults.
        noise: standard deviation of what is added to a matrix, over that of the matrix.

    Raises:
        CheckpointError: the model is not dense, or ``chosen`` describes none with pools, or one with fewer experts than
            layers in a pool.
    """
    if model.config.pool.router != "none":
        raise CheckpointError("--upcycle is for dense models, and this one has experts; leave it out")
    plan, config = _planned(model.config, chosen)
    tensors = inventory(plan)
    if plan.pool.router == "none":
        raise CheckpointError(
            "--upcycle makes experts, which pool.router=none cannot choose among; set pool.router=norm, for example"
        )
    if plan.pool.num_experts < plan.pool.layers_per_group:
        raise CheckpointError(
            f"pool.num_experts={plan.pool.num_experts} is fewer than the pool.layers_per_group="
            f"{plan.pool.layers_per_group} FFNs that become its experts; choose more experts"
        )
    return Incoming(config, model.tokenizer_hash, tensors, _reader(model, plan, tensors, noise))


def _planned(dense: Config, chosen: Sequence[str]) -> tuple[Plan, Config]:
    """Return the plan of the model with pools, and the configuration of its run with the sizes filled in."""
    values = dense.model_dump(mode="json")
    values["pool"] = {}
    try:
        for override in chosen:
            apply_override(values, override)
        config = validated(values, "the configuration")
        plan = resolve_model(config)
    except ConfigError as error:
        raise CheckpointError(f"--upcycle: {error}") from None
    filled = {name: getattr(plan.pool, name) for name in ("layers_per_group", "router_init_std")}
    return plan, config.model_copy(update={"pool": config.pool.model_copy(update=filled)})


def _reader(model: Incoming, plan: Plan, tensors: Inventory, noise: float) -> Read:
    pool, seed = plan.pool, plan.train.seed

    def read(name: str, first: int, values: Tensor) -> None:
        spec = tensors.find(name)
        assert spec is not None
        group, index, inner = split_name(name)
        if spec.part == "routers":
            values.copy_(initial_values(spec, seed)[first : first + len(values)])
        elif group == "experts":
            number, expert = divmod(index, pool.num_experts)
            layer = plan.pools.layers_of(number).start + expert * pool.layers_per_group // pool.num_experts
            whole = torch.empty(spec.shape)
            model.read(expert_name(layer, inner), 0, whole)
            if noise:
                unit = replace(spec, name=f"{name}/noise", init=1.0)
                whole += noise * whole.std() * initial_values(unit, seed)
            values.copy_(whole[first : first + len(values)])
        else:
            model.read(name, first, values)

    return read
