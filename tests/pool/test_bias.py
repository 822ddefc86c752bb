"""Balance by a bias on the choice of experts: how experts are chosen with it, how it moves, and that it balances."""

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
from unipool_dist.layout.pool_map import PoolMap
from unipool_dist.pool.bias import move_biases
from unipool_dist.pool.dispatch import choose, route

RATE = 0.05
BIAS = ("pool.router=sigmoid", "pool.balance.loss=none", f"pool.balance.bias_rate={RATE}")


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_the_sum_of_score_and_bias_chooses_and_the_score_alone_counts(top_k: int) -> None:
    generator = torch.Generator().manual_seed(2)
    scores, bias = torch.rand(50, 6, generator=generator), torch.randn(6, generator=generator)
    expert, score = choose(scores, top_k, bias)
    for token in range(50):
        wanted = sorted(range(6), key=lambda i: -(scores[token, i] + bias[i]).item())[:top_k]
        assert expert[token].tolist() == wanted
        assert score[token].tolist() == scores[token, wanted].tolist()
    assert not torch.equal(expert, choose(scores, top_k)[0]), "the bias makes a difference"


def test_a_bias_lets_no_expert_be_chosen_whose_score_is_zero() -> None:
    scores, bias = torch.tensor([[0.0, 0.2, 0.0, 0.1], [0.0, 0.0, 0.0, 0.0]]), torch.tensor([9.0, -3.0, 8.0, -5.0])
    expert, score = choose(scores, 2, bias)
    assert expert[0].tolist() == [1, 3] and score[1].tolist() == [0.0, 0.0]
    assert route(scores, 2, torch.arange(4), 4, bias).counts_M.tolist() == [0, 1, 0, 1]


def test_biases_of_a_pool_move_against_its_load() -> None:
    assignments = torch.tensor([[4, 0, 0], [0, 2, 0], [1, 1, 1], [5, 0, 1]])
    biases = {layer: torch.full((3,), 0.5) for layer in (0, 1, 3)}
    move_biases(biases, assignments, PoolMap(4, 2, 3), rate=0.125)
    # The loads of the pools are 4, 2, 0 and 6, 1, 2: means of 2 and 3.
    assert [biases[layer].tolist() for layer in (0, 1, 3)] == [[0.375, 0.5, 0.625]] * 2 + [[0.375, 0.625, 0.625]]


def _train(environment: Environment, overrides: tuple[str, ...], steps: int, port: int) -> dict[str, Any]:
    """After each step all assignments [L, M] and this rank's biases; evaluation must not move these."""
    config = tiny_config(*overrides, world_size=environment.world_size)
    with built(config, replace(environment, master_port=port)) as (groups, model, train_step):
        evaluation = Evaluation(config, groups, train_step.pipeline)
        assignments, biases = [], []
        for step in range(steps):
            assignments.append(train_step.run(step, batches_of(config, groups, step)).assignments.numpy().copy())
            biases.append({layer: bias.numpy().copy() for layer, bias in model.router_biases().items()})
            if step == 0:
                evaluation.run({"five": Batch(*sequences(99, 5))})
                for layer, bias in model.router_biases().items():
                    np.testing.assert_array_equal(bias.numpy(), biases[0][layer], err_msg="evaluation moved it")
    return {"assignments": assignments, "biases": biases}


def test_every_rank_moves_by_the_load_over_all_ranks(workers: Workers) -> None:
    overrides = (*BIAS, "parallel.pp=2", "parallel.tp=2", "pool.layers_per_group=2", "pool.top_k=2")
    ranks = workers.run(_train, 8, overrides, 3, free_port())
    expected = np.zeros((2, 16), dtype=np.float32)
    for step in range(3):
        load = ranks[0]["assignments"][step].reshape(2, 2, 16).sum(axis=1)
        assert load.sum() == 6 * 16 * 4 * 2, "a sigmoid is never 0: all choices count"
        expected += np.float32(RATE) * np.sign(load.mean(axis=1, keepdims=True) - load).astype(np.float32)
        seen = set()
        for rank in ranks:
            for layer, bias in rank["biases"][step].items():
                np.testing.assert_array_equal(bias, expected[layer // 2], err_msg=f"layer {layer} after step {step}")
                seen.add(layer)
        assert seen == {0, 1, 2, 3}


def test_it_balances(workers: Workers) -> None:
    """Where nothing else balances, the busiest expert of a layer gets less above the mean than half of that without."""
    vanilla = (*BIAS, "pool.layers_per_group=1", "pool.num_experts=8")
    busiest = {}
    for rate in (0.0, 0.02):
        (run,) = workers.run(_train, 1, (*vanilla, f"pool.balance.bias_rate={rate}"), 60, free_port())
        load = np.sum(run["assignments"][-20:], axis=0)
        busiest[rate] = float((load.max(axis=1) / load.mean(axis=1)).mean())
    assert busiest[0.0] > 1.3, "there is something to balance"
    assert busiest[0.02] - 1 < (busiest[0.0] - 1) / 2, busiest
