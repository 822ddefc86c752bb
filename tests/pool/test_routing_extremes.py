"""Routing at its extremes, on four ranks in two stages: no hang, finite numbers, exact zeros for unused experts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from tests.support.training import batches_of, built, tiny_config
from tests.support.workers import Workers, free_port
from unipool_dist.comm.environment import Environment
from unipool_dist.pool.main_grad import main_grad


@dataclass
class Seen:
    """What one rank saw in a step."""

    loss: float
    grad_norm: float
    rows_computed: int
    assignments: np.ndarray
    zero_by_expert: dict[int, bool]  # whether both gradients of an expert are exactly zero
    zero_routers: bool
    finite: bool


def _step(environment: Environment, favoured: list[int], port: int, overrides: tuple[str, ...]) -> Seen:
    """One step in which every layer's router gives positive scores to ``favoured`` experts only (none: to nobody)."""
    config = tiny_config("parallel.pp=2", *overrides, world_size=environment.world_size)
    with built(config, replace(environment, master_port=port)) as (groups, model, train_step):
        for router in (module for name, module in model.stage.named_modules() if name.endswith("router")):
            router.register_forward_hook(lambda _module, _inputs, scores: scores * mask_of(favoured, scores))
        kept: dict[int, bool] = {}
        dense: list[torch.Tensor] = []
        routers: list[torch.Tensor] = []
        reduce = train_step.optimizer.reduce_gradients

        def look_and_reduce() -> float:
            for slot, expert in enumerate(model.expert_ids):
                both = [main_grad(p)[slot] for _, p in model.named_expert_parameters()]
                kept[expert] = not any(gradient.any() for gradient in both)
            for name, parameter in model.named_dense_parameters():
                dense.append(main_grad(parameter))
                if "router" in name:
                    routers.append(main_grad(parameter))
            return reduce()

        train_step.optimizer.reduce_gradients = look_and_reduce  # type: ignore[method-assign]
        seen = train_step.run(0, batches_of(config, groups, 0))
        return Seen(
            seen.loss,
            seen.grad_norm,
            sum(model.exchange.traffic.rows_computed),
            seen.assignments.numpy(),
            kept,
            not any(gradient.any() for gradient in routers),
            all(bool(gradient.isfinite().all()) for gradient in dense),
        )


def mask_of(favoured: list[int], scores: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(scores.shape[-1])
    mask[favoured] = 1.0
    return mask


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize(
    "favoured",
    [[], [3], [0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]],
    ids=["nobody", "one-expert", "one-rank", "all-ranks-but-one"],
)
def test_extreme_routing(workers: Workers, favoured: list[int], top_k: int) -> None:
    ranks = workers.run(_step, 4, favoured, free_port(), (f"pool.top_k={top_k}",))
    for index, rank in enumerate(ranks):
        assert np.isfinite([rank.loss, rank.grad_norm]).all() and rank.finite
        used = rank.assignments.sum(axis=0)
        assert set(np.flatnonzero(used)) <= set(favoured)
        for expert, is_zero in rank.zero_by_expert.items():
            assert is_zero == (used[expert] == 0), f"expert {expert}"
        assert (rank.rows_computed == 0) == (not set(range(4 * index, 4 * index + 4)) & set(np.flatnonzero(used)))
        if not favoured:
            assert rank.zero_routers and used.sum() == 0
    assert sum(rank.rows_computed for rank in ranks) == ranks[0].assignments.sum()


def test_choices_with_score_zero_are_not_dispatched_and_change_nothing(workers: Workers) -> None:
    """With one positive score per token, top-2 equals top-1 bit for bit (softmax: its scores do not depend on k)."""
    one, two = (
        workers.run(_step, 4, [5], free_port(), (f"pool.top_k={top_k}", "pool.router=softmax")) for top_k in (1, 2)
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.assignments, b.assignments)
        assert (a.rows_computed, a.loss, a.grad_norm) == (b.rows_computed, b.loss, b.grad_norm)
