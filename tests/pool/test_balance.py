"""The balance loss against its closed formula, on one process and on many."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch

from tests.support.training import batches_of, built, tiny_config
from tests.support.workers import Workers, free_port
from unipool_dist.comm.environment import Environment
from unipool_dist.pool.client import PoolClient
from unipool_dist.pool.losses import balance_loss, scores_for_loss
from unipool_dist.pool.turn import Turn


def test_closed_formula() -> None:
    share = torch.tensor([0.5, 0.25, 0.25, 0.0])
    mean_score = torch.tensor([0.4, 0.1, 0.2, 0.3])
    expected = 0.01 * 4 * (0.5 * 0.4 + 0.25 * 0.1 + 0.25 * 0.2)
    assert balance_loss(share, mean_score, 0.01).item() == pytest.approx(expected, rel=1e-6)


def test_perfect_balance_of_normalized_scores_gives_alpha() -> None:
    uniform = torch.full((8,), 1 / 8)
    assert balance_loss(uniform, uniform, 0.02).item() == pytest.approx(0.02, rel=1e-6)


def test_normalized_scores_sum_to_one_and_a_token_without_scores_gives_none() -> None:
    scores = torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    normalized = scores_for_loss(scores, "normalized")
    assert normalized.tolist() == [[0.25, 0.75, 0.0], [0.0, 0.0, 0.0]]
    normalized.square().sum().backward()
    assert scores.grad is not None and scores.grad.isfinite().all()
    assert scores_for_loss(scores, "raw") is scores


def _capture(environment: Environment, overrides: tuple[str, ...], ports: list[int]) -> dict[str, object]:
    """Scores and choices of two steps on this rank, and the auxiliary losses and shares that came of them."""
    config = tiny_config(*overrides, world_size=environment.world_size)
    captured: list[list[tuple[int, torch.Tensor, torch.Tensor]]] = []
    with built(config, replace(environment, master_port=ports[0])) as (groups, model, train_step):
        run = PoolClient.run

        def spy(
            client: PoolClient,
            layer: int,
            slot: int,
            turn: Turn,
            tokens: torch.Tensor,
            scores: torch.Tensor,
            score_sum: torch.Tensor,
            bias: None,
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            top, chosen = scores.detach().topk(config.pool.top_k)
            captured[-1].append((layer, scores.detach().clone(), torch.where(top > 0, chosen, -1)))
            return run(client, layer, slot, turn, tokens, scores, score_sum, bias)

        losses, shares = [], []
        with patch.object(PoolClient, "run", spy):
            for step in range(3):
                captured.append([])
                losses.append(train_step.run(step, batches_of(config, groups, step)).aux_loss)
                shares.append(model.balance.state_dict()["share"].numpy().copy())
    return {"captured": captured, "losses": losses, "shares": shares}


@pytest.mark.parametrize("grid", [("parallel.pp=1",), ("parallel.pp=2", "parallel.tp=2")], ids=["one", "pp2-dp2-tp2"])
@pytest.mark.parametrize("scores", ["raw", "normalized"])
def test_pool_loss_and_shares_equal_the_formula_over_all_ranks(
    workers: Workers, grid: tuple[str, ...], scores: str
) -> None:
    world_size = 1 if len(grid) == 1 else 8
    overrides = (*grid, f"pool.balance.scores={scores}", "pool.layers_per_group=2", "pool.top_k=2")
    ranks = workers.run(_capture, world_size, overrides, [free_port()])
    for rank in ranks[1:]:
        assert rank["losses"] == ranks[0]["losses"]
        for mine, theirs in zip(rank["shares"], ranks[0]["shares"], strict=True):
            np.testing.assert_array_equal(mine, theirs, err_msg="shares differ between ranks")
    shares = np.zeros((2, 16))
    for step in range(3):
        score_sums, counts, tokens = np.zeros((4, 16)), np.zeros((2, 16)), np.zeros(4)
        for rank in ranks:
            for layer, score_TM, chosen_TK in rank["captured"][step]:
                score = score_TM.double().numpy()
                if scores == "normalized":
                    score = score / score.sum(axis=1, keepdims=True)
                score_sums[layer] += score.sum(axis=0)
                tokens[layer] += len(score)
                for expert in chosen_TK.flatten().tolist():
                    if expert >= 0:
                        counts[layer // 2, expert] += 1
        assert tokens.tolist() == [96.0] * 4
        expected = sum(
            0.01 * 16 / 2 * float(shares[layer // 2] @ (score_sums[layer] / tokens[layer])) for layer in range(4)
        )
        assert ranks[0]["losses"][step] == pytest.approx(expected, rel=1e-5, abs=1e-9)
        shares = counts / counts.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(ranks[0]["shares"][step], shares, rtol=1e-6)
