"""Made-up use of experts by layers, as runs have it."""

from __future__ import annotations

import numpy as np

from unipool_dist.placement.traffic import Floats, Ints, Topology, Traffic

TOKENS = 4096


def use(layers: int, experts: int, *, own: float, seed: int = 0, spread: float = 0.45) -> Ints:
    """Rows [L, E] of layers that each own experts in no order of their ids, and use the others' a little.

    ``own`` of an expert's rows come from its own layer; ``spread`` is the standard deviation of the logarithm of how
    popular experts are.
    """
    rng = np.random.default_rng(seed)
    popular = rng.lognormal(0, spread, experts)
    owner = rng.permutation(np.arange(experts) % layers)
    share = rng.dirichlet(np.full(layers, 0.5), size=experts).T
    share = (1 - own) * share + own * (owner[None] == np.arange(layers)[:, None])
    weight = share * popular
    return np.round(TOKENS * weight / weight.sum(axis=1, keepdims=True)).astype(np.int64)


def traffic(
    rows_LE: Ints, stages: int, ranks: int, *, per_node: int | None = None, crossing_cost: float = 3.0
) -> Traffic:
    """Layers dealt to stages in order; a node is a stage, or ``per_node`` ranks."""
    slots: Floats = np.stack(np.split(rows_LE, stages)).astype(np.float64)
    return Traffic(
        slots, Topology(stages, np.arange(ranks) // (per_node or ranks // stages)), crossing_cost=crossing_cost
    )
