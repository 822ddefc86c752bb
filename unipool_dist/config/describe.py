"""A plan in words."""

from __future__ import annotations

from unipool_dist.config.plan import Outline
from unipool_dist.config.roles import differing, flat
from unipool_dist.config.staging import STAGE_FIELDS, config_at


def describe_model(plan: Outline) -> str:
    """Describe model and type: ``12 layers, hidden 768, one pool of 96 experts, top-1, norm router, bf16``."""
    return f"{plan.model.num_layers} layers, hidden {plan.model.hidden_size}, {_ffn(plan)}, {plan.train.dtype}"


def describe_layout(plan: Outline) -> str:
    """Describe the layout: ``pp 2 x dp 2 x tp 1 = 4 processes``."""
    parallel = plan.parallel
    return f"pp {parallel.pp} x dp {parallel.dp} x tp {parallel.tp} = {plan.grid.world_size} processes"


def describe_owners(plan: Outline) -> str:
    """Describe the owners of the experts, in a clause."""
    pool, pp = plan.pool, plan.parallel.pp
    if pool.router == "none":
        return "every rank holds the FFNs of its layers"
    span = f"{pool.stages_per_group} of {pp} pipeline stages" if pp > 1 else "one pipeline stage"
    return f"each copy of the pool is owned by {pool.parallel_size} ranks over {span}"


def describe_change(plan: Outline, step: int) -> str:
    """Describe what is different from the step before: ``train.global_batch_size 16 -> 32``."""
    before, after = (flat(config_at(plan.config, at)) for at in (step - 1, step))
    changed = differing(before, after, STAGE_FIELDS)
    return ", ".join(f"{name} {before[name]} -> {after[name]}" for name in changed) or "as before"


def _ffn(plan: Outline) -> str:
    pool = plan.pool
    if pool.router == "none":
        return "dense"
    num_pools = plan.pools.num_pools
    pools = "one pool" if num_pools == 1 else f"{num_pools} pools"
    return f"{pools} of {pool.num_experts} experts, top-{pool.top_k}, {pool.router} router"
