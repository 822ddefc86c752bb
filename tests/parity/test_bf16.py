"""bf16: twenty steps on any layout end at the loss of one process."""

from __future__ import annotations

import pytest

from tests.support.training import train_variants
from tests.support.workers import Workers, free_port

STEPS = 20
# 768 tokens a step and an epsilon above rounding noise: with less, twenty updates of near lr * sign(gradient) amplify
# the rounding of bf16 until two orders of summation have trained different models.
BF16 = (
    "train.dtype=bf16",
    "train.global_batch_size=48",
    "train.micro_batch_size=4",
    "optimizer.lr=0.002",
    "optimizer.epsilon=1e-5",
)


@pytest.fixture(scope="module")
def one_process(workers: Workers) -> list[float]:
    """Losses of the run that all layouts are compared with."""
    ((reference,),) = workers.run(train_variants, 1, [BF16], [0], STEPS)
    losses: list[float] = reference.losses
    return losses


@pytest.mark.parametrize(
    ("world", "grid"),
    [
        (2, ("parallel.pp=2",)),
        (4, ("parallel.pp=2",)),
        (4, ("parallel.pp=2", "parallel.tp=2", "parallel.recompute=true")),
        (8, ("parallel.pp=4", "pool.top_k=1")),
    ],
    ids=["pp2", "pp2-dp2", "pp2-tp2-recompute", "pp4-dp2"],
)
def test_bf16_loss_after_twenty_steps(
    workers: Workers, one_process: list[float], world: int, grid: tuple[str, ...]
) -> None:
    assert one_process[-1] < 0.7 * one_process[0]
    for (rank,) in workers.run(train_variants, world, [(*BF16, *grid)], [free_port()], STEPS):
        assert rank.losses[-1] == pytest.approx(one_process[-1], abs=1e-2)
