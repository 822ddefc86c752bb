"""What the matrix does not cover is resumed as well: other optimizers, pools and types, and the balance statistics."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoint.support import load_step, save_step
from tests.support.training import batches_of, built, tiny_config
from tests.support.workers import Workers
from unipool_dist.comm.environment import Environment

STEPS, MORE = 3, 3
COMMON = ("train.global_batch_size=8", "optimizer.epsilon=1e-5")
PP2 = ("parallel.pp=2",)
TP2 = ("parallel.tp=2",)
SGD = ("optimizer.name=sgd",)

# Overrides of the run, of the layout that saves and of the one that loads; how exactly losses must agree. Where it is 0
# the layouts are the same and every bit of the state counts.
RUNS = {
    "sgd without momentum": (SGD, PP2, TP2, 1e-5),
    "sgd with momentum": ((*SGD, "optimizer.momentum=0.9"), PP2, TP2, 1e-5),
    "groups of 2 layers": (("pool.layers_per_group=2",), PP2, TP2, 1e-5),
    "vanilla": (("pool.layers_per_group=1", "pool.router=softmax", "pool.balance.loss=layer"), PP2, TP2, 1e-5),
    "raw scores, a large auxiliary loss": (("pool.balance.scores=raw", "pool.balance.alpha=1.0"), PP2, TP2, 1e-5),
    "biases of routers": (
        ("pool.router=sigmoid", "pool.balance.loss=none", "pool.balance.bias_rate=0.1"),
        PP2,
        TP2,
        1e-5,
    ),
    "bf16": (("train.dtype=bf16",), PP2, PP2, 0.0),
    "window of a micro-batch": (("pool.balance.window=microbatch", "pool.balance.alpha=1.0"), PP2, PP2, 0.0),
    "recompute, gpipe": (("parallel.recompute=true", "parallel.schedule=lockstep_gpipe"), PP2, PP2, 0.0),
}


def _uninterrupted(environment: Environment, overrides: tuple[str, ...], folder: Path) -> list[tuple[float, float]]:
    """Train, saving on the way; the losses and auxiliary losses after that."""
    config = tiny_config(*overrides, world_size=environment.world_size)
    with built(config, environment) as (groups, model, train_step):
        results = []
        for step in range(STEPS + MORE):
            result = train_step.run(step, batches_of(config, groups, step))
            if step + 1 == STEPS:
                save_step(config, groups, model, train_step, folder, STEPS)
            elif step + 1 > STEPS:
                results.append((result.loss, result.aux_loss))
    return results


def _resumed(environment: Environment, overrides: tuple[str, ...], folder: Path) -> list[tuple[float, float]]:
    config = tiny_config(*overrides, world_size=environment.world_size)
    with built(config, environment) as (groups, model, train_step):
        load_step(groups, model, train_step, folder, STEPS)
        results = [train_step.run(step, batches_of(config, groups, step)) for step in range(STEPS, STEPS + MORE)]
    return [(result.loss, result.aux_loss) for result in results]


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(workers: Workers, tmp_path: Path, name: str) -> None:
    run, saves, loads, rounding = RUNS[name]
    expected = workers.run(_uninterrupted, 4, (*COMMON, *run, *saves), tmp_path)[0]
    found = workers.run(_resumed, 4, (*COMMON, *run, *loads), tmp_path)[0]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=rounding, abs=0)
    assert len({loss for loss, _ in expected}) == MORE, "losses differ from step to step"
