"""Routers: the constant of NormRouter, and the scores by their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from tests.support.training import tiny_config
from unipool_dist.config import load_config
from unipool_dist.config.sections import PoolSection
from unipool_dist.model.families import inventory
from unipool_dist.pool.router import (
    ROUTERS,
    NormRouter,
    SigmoidRouter,
    SoftmaxRouter,
    make_router,
    norm_constant,
    parameter_shapes,
)


@pytest.mark.parametrize(
    ("num_experts", "top_k", "value"),
    [(96, 1, 4.016), (192, 1, 5.158), (384, 1, 6.722), (192, 2, 3.848), (384, 4, 3.761)],
)
def test_constant_agrees_with_the_published_values(num_experts: int, top_k: int, value: float) -> None:
    assert norm_constant(num_experts, top_k) == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize("num_experts", range(2, 17))
def test_constant_is_finite_for_small_pools(num_experts: int) -> None:
    for top_k in {1, min(2, num_experts), num_experts}:
        value = norm_constant(num_experts, top_k)
        assert math.isfinite(value) and value >= 1.0  # a unit vector's chosen components have norm 1 at most


def test_chosen_scores_have_norm_about_one_at_the_start() -> None:
    torch.manual_seed(0)
    router = NormRouter(PoolSection(num_experts=96, top_k=1), 64)
    torch.nn.init.normal_(router.weight)
    torch.nn.init.ones_(router.scale)
    scores = router(torch.randn(4000, 64))
    assert scores.topk(1).values.norm(dim=-1).mean().item() == pytest.approx(1.0, abs=0.05)


def test_norm_router_by_its_formula() -> None:
    torch.manual_seed(1)
    router = NormRouter(PoolSection(num_experts=8, top_k=2), 16)
    torch.nn.init.normal_(router.weight)
    torch.nn.init.constant_(router.scale, 0.7)
    tokens = torch.randn(5, 16)
    scores = router(tokens)
    for token, row in zip(tokens, scores, strict=True):
        z = router.weight @ token
        expected = 0.7 * norm_constant(8, 2) * torch.clamp(z / (z.norm() + 1e-8), min=0)
        torch.testing.assert_close(row, expected)
    assert (scores >= 0).all() and (scores == 0).any()


def test_a_zero_token_gives_zero_scores_and_finite_gradients() -> None:
    router = NormRouter(PoolSection(num_experts=4, top_k=1), 8)
    torch.nn.init.normal_(router.weight)
    torch.nn.init.ones_(router.scale)
    tokens = torch.zeros(3, 8, requires_grad=True)
    scores = router(tokens)
    scores.sum().backward()
    assert (scores == 0).all()
    assert tokens.grad is not None and router.weight.grad is not None
    assert tokens.grad.isfinite().all() and router.weight.grad.isfinite().all()


def test_scores_are_fp32_whatever_the_tokens_are() -> None:
    for kind in ("norm", "softmax", "sigmoid", "none"):
        router = make_router(load_config(None, [f"pool.router={kind}", "pool.num_experts=8"]).pool, 16)
        assert router.bias is None
        for parameter in router.parameters():
            torch.nn.init.normal_(parameter)
        assert router(torch.randn(3, 16, dtype=torch.bfloat16)).dtype == torch.float32


def test_without_a_router_the_only_expert_has_score_one() -> None:
    router = make_router(load_config(None, ["pool.router=none"]).pool, 16)
    assert router(torch.randn(3, 16)).tolist() == [[1.0]] * 3
    assert not list(router.parameters())


def test_sigmoid_router_by_its_formula() -> None:
    router = SigmoidRouter(PoolSection(num_experts=8), 16)
    torch.nn.init.normal_(router.weight)
    tokens = torch.randn(5, 16)
    torch.testing.assert_close(router(tokens), 1 / (1 + torch.exp(-tokens @ router.weight.T)))


@pytest.mark.parametrize("kind", ["norm", "softmax", "sigmoid"])
def test_a_bias_is_neither_trained_nor_in_the_scores(kind: str) -> None:
    names = [f"pool.router={kind}", "pool.num_experts=8", "pool.balance.bias_rate=0.001"]
    router = make_router(load_config(None, names).pool, 16)
    assert router.bias is not None and router.bias.tolist() == [0.0] * 8
    assert "bias" not in dict(router.named_parameters())
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter)
    tokens = torch.randn(5, 16)
    before = router(tokens)
    router.bias += 1.0
    assert torch.equal(router(tokens), before)


def test_softmax_router_sums_to_one() -> None:
    router = SoftmaxRouter(PoolSection(num_experts=8), 16)
    torch.nn.init.normal_(router.weight)
    torch.testing.assert_close(router(torch.randn(5, 16)).sum(-1), torch.ones(5))


@pytest.mark.parametrize("name", ROUTERS)
def test_the_inventory_has_the_parameters_of_every_router(name: str) -> None:
    dense = ("pool.num_experts=1", "pool.balance.loss=none") if name == "none" else ()
    plan = tiny_config(f"pool.router={name}", *dense)
    described = {spec.name: spec.shape for spec in inventory(plan).layer if spec.part == "routers"}
    shapes = parameter_shapes(plan.pool, plan.model.hidden_size)
    assert described == {f"router.{parameter}": shape for parameter, shape in shapes.items()}
