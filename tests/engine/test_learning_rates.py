"""``optimizer.router_lr_scale``: routers follow the schedule at a rate of their own, on every layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoint.support import load_step, save_step
from tests.support.training import (
    RankResult,
    assemble_weights,
    batches_of,
    built,
    gradients_kept,
    relative_difference,
    tiny_config,
    train_variants,
)
from tests.support.workers import Workers, free_port
from unipool_dist.comm.environment import Environment

SCALE = 10.0
SCALED = (f"optimizer.router_lr_scale={SCALE}",)
SGD = ("optimizer.name=sgd", "optimizer.clip_grad=0")
ADAMW = ("optimizer.epsilon=1e-5",)  # with its usual epsilon, gradients of the size of rounding noise would decide
ZERO0 = (f"optimizer.deepspeed={Path(__file__).parents[2] / 'ds_configs/zero0.json'}",)
STEPS = 3
TYPES = ["fp32", "bf16"]  # in fp32 routers and dense parameters are of one type, and share an optimizer


@pytest.mark.parametrize("dtype", TYPES)
def test_the_first_update_of_routers_is_scaled_and_no_other(workers: Workers, dtype: str) -> None:
    plain = (*SGD, f"train.dtype={dtype}")
    variants = [plain, (*plain, *SCALED)]
    (start,) = workers.run(train_variants, 1, [plain], [0], 0)
    (results,) = workers.run(train_variants, 1, variants, [free_port(), free_port()], 1)
    before, once, scaled = (result.dense_weights for result in (*start, *results))
    routers = {name for name in before if "router" in name.split(".")}
    assert {name.rpartition(".")[2] for name in routers} == {"weight", "scale"}
    for name in before:
        if name in routers:
            update = once[name] - before[name]
            assert np.abs(update).max() > 0
            np.testing.assert_allclose(scaled[name] - before[name], SCALE * update, rtol=1e-3, atol=2e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(scaled[name], once[name], err_msg=name)
    for name, weight in results[0].expert_weights.items():
        np.testing.assert_array_equal(results[1].expert_weights[name], weight, err_msg=name)


def _rates(environment: Environment, steps: int) -> list[tuple[float, float, float]]:
    """At each step the rate that is reported, and those that weights show: of the routers, of the other parameters.

    Plain SGD moves a weight by its gradient times the rate.
    """
    schedule = ("optimizer.warmup_steps=2", "optimizer.decay=linear", f"train.steps={steps}")
    config = tiny_config(*SGD, *SCALED, *schedule, "optimizer.weight_decay=0.0", world_size=1)
    rates = []
    with built(config, environment) as (groups, model, train_step):
        for step in range(steps):
            before = {name: parameter.detach().numpy().copy() for name, parameter in model.named_dense_parameters()}
            kept = RankResult(0, 0, 0)
            with gradients_kept(train_step, model, kept):
                seen = train_step.run(step, batches_of(config, groups, step))
            moved = {
                name: (before[name] - parameter.detach().numpy()).ravel()
                for name, parameter in model.named_dense_parameters()
            }
            shown = []
            for routers in (True, False):
                names = [name for name in moved if ("router" in name.split(".")) == routers]
                gradient = np.concatenate([kept.dense_gradients[name].ravel() for name in names])
                move = np.concatenate([moved[name] for name in names])
                shown.append(float(gradient @ move / (gradient @ gradient)))
            rates.append((seen.lr, shown[0], shown[1]))
    return rates


def test_the_whole_schedule_is_scaled_and_the_other_rate_is_reported(workers: Workers) -> None:
    (rates,) = workers.run(_rates, 1, 6)
    # From 0 to 0.01 in two steps, then to 0.001 in four.
    expected = [0.005, 0.01, 0.00775, 0.0055, 0.00325, 0.001]
    assert [reported for reported, _, _ in rates] == pytest.approx(expected)
    assert [others for _, _, others in rates] == pytest.approx(expected, rel=1e-3)
    assert [routers for _, routers, _ in rates] == pytest.approx([SCALE * rate for rate in expected], rel=1e-3)


def test_layouts_and_zero_stages_agree(workers: Workers) -> None:
    ((expected,),) = workers.run(train_variants, 1, [(*ADAMW, *SCALED)], [0], STEPS)
    layouts = [("parallel.pp=2",), (), ZERO0, ("parallel.tp=2",)]
    variants = [(*ADAMW, *SCALED, *layout) for layout in layouts]
    by_rank = workers.run(train_variants, 2, variants, [free_port() for _ in variants], STEPS)
    wanted = assemble_weights([expected])
    for index, layout in enumerate(layouts):
        found = assemble_weights([results[index] for results in by_rank])
        for name, weight in wanted.items():
            assert relative_difference(found[name], weight) < 1e-5, f"{name} {layout}"


def test_zero_stages_agree_in_bf16(workers: Workers) -> None:
    variants = [(*ADAMW, *SCALED, "train.dtype=bf16", *zero) for zero in ((), ZERO0)]
    by_rank = workers.run(train_variants, 2, variants, [free_port(), free_port()], STEPS)
    one, zero = (assemble_weights([results[index] for results in by_rank]) for index in range(2))
    for name, weight in one.items():
        assert relative_difference(zero[name], weight) < 1e-2, name


def _save(environment: Environment, overrides: tuple[str, ...], folder: Path) -> list[float]:
    """Train, save, train on; the losses after the save."""
    config = tiny_config(*overrides, world_size=environment.world_size)
    with built(config, environment) as (groups, model, train_step):
        for step in range(STEPS):
            train_step.run(step, batches_of(config, groups, step))
        save_step(config, groups, model, train_step, folder, STEPS)
        return [train_step.run(step, batches_of(config, groups, step)).loss for step in range(STEPS, 2 * STEPS)]


def _resume(
    environment: Environment, variants: list[tuple[str, ...]], ports: list[int], folder: Path
) -> list[list[float]]:
    losses = []
    for overrides, port in zip(variants, ports, strict=True):
        config = tiny_config(*overrides, world_size=environment.world_size)
        with built(config, replace(environment, master_port=port)) as (groups, model, train_step):
            load_step(groups, model, train_step, folder, STEPS)
            steps = range(STEPS, 2 * STEPS)
            losses.append([train_step.run(step, batches_of(config, groups, step)).loss for step in steps])
    return losses


def test_a_run_goes_on_from_its_checkpoint_on_any_layout(workers: Workers, tmp_path: Path) -> None:
    (uninterrupted,) = workers.run(_save, 1, (*ADAMW, *SCALED), tmp_path)
    layouts = [("parallel.pp=2",), ("parallel.tp=2",), (), ZERO0]
    variants = [(*ADAMW, *SCALED, *layout) for layout in layouts]
    # The scale is the configuration's, not the checkpoint's: without it the run continues at the ordinary rate.
    variants.append((*ADAMW, "parallel.pp=2"))
    for losses in workers.run(_resume, 2, variants, [free_port() for _ in variants], tmp_path):
        *same, other = losses
        for layout, found in zip(layouts, same, strict=True):
            assert found == pytest.approx(uninterrupted, rel=1e-5), layout
        assert other[0] == pytest.approx(uninterrupted[0], rel=1e-5)
        assert other[-1] != pytest.approx(uninterrupted[-1], rel=1e-5)
