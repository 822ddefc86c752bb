"""The update rules: torch's optimizers, for parameters grouped by what is done alike with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unipool_dist.config.sections import OptimizerSection
from unipool_dist.engine.optim.sharded import TrainedParameter


def alike(trained: Sequence[TrainedParameter]) -> list[list[TrainedParameter]]:
    """Group parameters that are updated and counted alike; the same groups on every tensor-parallel rank."""
    groups: dict[tuple[bool, bool, float], list[TrainedParameter]] = {}
    for item in trained:
        groups.setdefault((item.is_split, item.has_weight_decay, item.lr_scale), []).append(item)
    return list(groups.values())


def torch_optimizer(groups: list[list[TrainedParameter]], settings: OptimizerSection) -> torch.optim.Optimizer:
    """Return torch's optimizer called ``optimizer.name``, with one parameter group for each of ``groups``.

    The learning rate of each group is set before every step.
    """
    param_groups = [
        {
            "params": [item.parameter for item in members],
            "weight_decay": settings.weight_decay if members[0].has_weight_decay else 0.0,
        }
        for members in groups
    ]
    if settings.name == "sgd":
        return torch.optim.SGD(param_groups, lr=settings.lr, momentum=settings.momentum)
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(param_groups, lr=settings.lr, betas=betas, eps=settings.epsilon)


def state_kinds(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """Return the names of the tensors that the optimizer keeps for each parameter besides its master."""
    if isinstance(optimizer, torch.optim.AdamW):
        return ("exp_avg", "exp_avg_sq")
    return ("momentum_buffer",) if optimizer.defaults["momentum"] else ()
