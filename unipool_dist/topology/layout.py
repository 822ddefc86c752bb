"""From a resolved configuration to its rank grid, without any process group."""

from __future__ import annotations

from unipool_dist.config import Config
from unipool_dist.errors import TopologyError
from unipool_dist.topology.rank_grid import RankGrid, Span


def rank_grid(config: Config) -> RankGrid:
    """Return the rank grid of a resolved configuration.

    Raises:
        TopologyError: the pools of one stage group are shared with different other stage groups, so that its experts
            would have different replicas.
    """
    parallel, pool = config.parallel, config.pool
    assert isinstance(parallel.dp, int) and pool.parallel_size is not None and pool.stages_per_group is not None
    assert pool.layers_per_group is not None
    grid = RankGrid(parallel.pp, parallel.dp, parallel.tp, pool.parallel_size, pool.stages_per_group)
    spans = grid.pool_spans(config.model.num_layers, pool.layers_per_group)
    span_of: dict[int, Span] = {}
    for span in dict.fromkeys(spans):
        if any(span_of.setdefault(stage_group, span) != span for stage_group in range(span[0], span[1] + 1)):
            raise TopologyError(
                f"with pool.stages_per_group={pool.stages_per_group} and parallel.pp={parallel.pp}, pools of "
                f"pool.layers_per_group={pool.layers_per_group} layers begin or end inside a stage group and reach "
                f"into the next; set pool.stages_per_group={parallel.pp}, or choose layers_per_group so that pools and "
                f"stage groups align"
            )
    return grid
