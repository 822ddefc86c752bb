"""A user's own schedules and balance loss give on any layout what one process gives."""

from __future__ import annotations

from torch import Tensor

from tests.parity.test_layouts import MODELS, STEPS, check, reference
from tests.support.training import RankResult, train_variants
from tests.support.workers import Workers, free_port
from unipool_dist.base.user_code import trust
from unipool_dist.comm.environment import Environment
from unipool_dist.pool.losses import BalanceLoss

SCHEDULES = ["tests.support.own_schedules:odd_order", "tests.support.own_schedules:merged"]
LOSS = "tests.parity.test_own_code:SquareLoss"
MODEL = (*MODELS["top2-sgd"], "pool.num_experts=18")


class SquareLoss(BalanceLoss):
    """``alpha * M / G * sum_i f_i^2 P_i``: weighs the most used experts more than the Switch loss does."""

    def __call__(self, share_M: Tensor, mean_score_M: Tensor) -> Tensor:
        weight = self.alpha * len(share_M) / self.layers_per_pool
        return weight * (share_M.square() * mean_score_M).sum()


def _train(environment: Environment, variants: list[tuple[str, ...]], ports: list[int]) -> list[RankResult]:
    trust([*SCHEDULES, LOSS])
    return train_variants(environment, variants, ports, STEPS)


def test_the_executor_runs_schedules_of_ones_own(workers: Workers) -> None:
    variants = [(*MODEL, "parallel.pp=3", f"parallel.schedule={name}") for name in SCHEDULES]
    by_rank = workers.run(_train, 3, variants, [free_port() for _ in variants])
    for index, name in enumerate(SCHEDULES):
        check([results[index] for results in by_rank], reference(workers, MODEL), name)


def test_a_balance_loss_of_ones_own(workers: Workers) -> None:
    variant = (*MODEL, f"pool.balance.loss={LOSS}")
    ((expected,),) = workers.run(_train, 1, [variant], [0])
    assert expected.aux_losses != reference(workers, MODEL).aux_losses and min(expected.aux_losses) > 0
    check(
        [results[0] for results in workers.run(_train, 2, [(*variant, "parallel.pp=2")], [free_port()])], expected, LOSS
    )
