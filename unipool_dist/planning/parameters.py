"""How many parameters of what kind a whole model has, from its configuration alone.

Configurations are resolved and have a vocabulary size.
"""

from __future__ import annotations

from dataclasses import dataclass

from unipool_dist.config.plan import Plan
from unipool_dist.model.families import inventory
from unipool_dist.model.inventory import Part


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of each part: all that are stored, and those that take part in computing one token.

    All of a model is active but the experts that a token does not choose.
    """

    stored: dict[Part, int]
    active: dict[Part, int]


def count_parameters(plan: Plan) -> ParameterCounts:
    """Count the parameters of each part."""
    stored: dict[Part, int] = dict.fromkeys(("embedding", "attention", "norms", "routers", "experts"), 0)
    for spec, count in inventory(plan).counted():
        if spec.trained:
            stored[spec.part] += count * spec.numel
    chosen = plan.model.num_layers * plan.pool.top_k * expert_parameters(plan)
    return ParameterCounts(stored, {**stored, "experts": chosen})


def expert_parameters(plan: Plan) -> int:
    """Count the parameters of one expert."""
    return sum(spec.numel for spec in inventory(plan).expert)
