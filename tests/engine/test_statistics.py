"""Balance statistics: equal on all ranks; changed by training alone, not by evaluation and not by recomputation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.training import batches_of, built, sequences, tiny_config
from tests.support.workers import Workers, free_port
from unipool_dist.comm.environment import Environment
from unipool_dist.data.batches import Batch
from unipool_dist.engine.evaluate import Evaluation


def _run(environment: Environment, overrides: tuple[str, ...], evaluate: bool, port: int) -> dict[str, Any]:
    config = tiny_config(*overrides, world_size=environment.world_size)
    losses, states, validation = [], [], []
    with built(config, replace(environment, master_port=port)) as (groups, model, train_step):
        evaluation = Evaluation(config, groups, train_step.pipeline)
        domains = {"five": Batch(*sequences(99, 5)), "one": Batch(*sequences(98, 1))}
        for step in range(3):
            seen = train_step.run(step, batches_of(config, groups, step))
            losses.append((seen.loss, seen.aux_loss, seen.grad_norm))
            before = {name: value.clone() for name, value in model.balance.state_dict().items()}
            if evaluate:
                validation.append(evaluation.run(domains))
                assert model.exchange.num_entries == 0
            for name, value in model.balance.state_dict().items():
                assert torch.equal(value, before[name]), f"evaluation changed {name}"
            states.append(before["share"].numpy())
            assert int(seen.assignments.sum()) <= 6 * 16 * 4
    return {"losses": losses, "states": states, "validation": validation}


@pytest.mark.parametrize("window", ["step", "microbatch"])
def test_evaluation_changes_nothing_and_ranks_agree(workers: Workers, window: str) -> None:
    overrides = ("parallel.pp=2", f"pool.balance.window={window}")
    plain = workers.run(_run, 4, overrides, False, free_port())
    evaluated = workers.run(_run, 4, overrides, True, free_port())
    for a, b in zip(plain, evaluated, strict=True):
        assert a["losses"] == b["losses"] == plain[0]["losses"]
        np.testing.assert_array_equal(a["states"], b["states"])
        np.testing.assert_array_equal(a["states"], plain[0]["states"], err_msg="ranks disagree")


@pytest.mark.parametrize("window", ["step", "microbatch"])
def test_recomputation_changes_nothing(workers: Workers, window: str) -> None:
    overrides = ("parallel.pp=2", f"pool.balance.window={window}")
    plain = workers.run(_run, 2, overrides, False, free_port())
    again = workers.run(_run, 2, (*overrides, "parallel.recompute=true"), False, free_port())
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_array_equal(a["states"], b["states"])
        np.testing.assert_allclose(a["losses"], b["losses"], rtol=1e-6)


def test_validation_loss_does_not_depend_on_the_layout(workers: Workers) -> None:
    """Five sequences over two data-parallel ranks: the missing one must not count."""
    (one,) = workers.run(_run, 1, (), True, 0)
    for overrides in (("parallel.pp=2",), ("parallel.tp=2", "train.micro_batch_size=3")):
        for rank in workers.run(_run, 4, overrides, True, free_port()):
            for mine, theirs in zip(rank["validation"], one["validation"], strict=True):
                assert mine == pytest.approx(theirs, rel=1e-5)


def test_window_microbatch_uses_the_microbatch_before(workers: Workers) -> None:
    """With one process there is a loss from the second micro-batch on, so already in the first step."""
    (by_step,) = workers.run(_run, 1, ("pool.balance.window=step",), False, 0)
    (by_microbatch,) = workers.run(_run, 1, ("pool.balance.window=microbatch",), False, 0)
    assert by_step["losses"][0][1] == 0 < by_microbatch["losses"][0][1]
