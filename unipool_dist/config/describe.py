"""A resolved configuration in words."""

from __future__ import annotations

from unipool_dist.config.sections import Config


def describe_model(config: Config) -> str:
    """Describe model and type, as in ``12 layers, hidden 768, one pool of 96 experts, top-1, norm router, bf16``."""
    return f"{config.model.num_layers} layers, hidden {config.model.hidden_size}, {_ffn(config)}, {config.train.dtype}"


def describe_layout(config: Config) -> str:
    """Describe the layout: ``pp 2 x dp 2 x tp 1 = 4 processes``."""
    parallel = config.parallel
    assert isinstance(parallel.dp, int)
    return (
        f"pp {parallel.pp} x dp {parallel.dp} x tp {parallel.tp} = {parallel.pp * parallel.dp * parallel.tp} processes"
    )


def describe_owners(config: Config) -> str:
    """Describe the owners of the experts, in a clause."""
    pool, pp = config.pool, config.parallel.pp
    if pool.router == "none":
        return "every rank holds the FFNs of its layers"
    span = f"{pool.stages_per_group} of {pp} pipeline stages" if pp > 1 else "one pipeline stage"
    return f"each copy of the pool is owned by {pool.parallel_size} ranks over {span}"


def _ffn(config: Config) -> str:
    pool = config.pool
    if pool.router == "none":
        return "dense"
    assert pool.layers_per_group is not None
    num_pools = config.model.num_layers // pool.layers_per_group
    pools = "one pool" if num_pools == 1 else f"{num_pools} pools"
    return f"{pools} of {pool.num_experts} experts, top-{pool.top_k}, {pool.router} router"
