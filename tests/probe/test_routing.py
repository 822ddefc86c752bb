"""Random routing is uniform, keeps the gates, and depends on where a token is, not on who has it."""

from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unipool_dist.probe.routing import RandomRouting, random_experts

CANDIDATES = torch.tensor([0, 3, 4, 9])


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_every_choice_of_experts_is_equally_likely(top_k: int) -> None:
    draws = 48_000
    drawn = random_experts(CANDIDATES, draws, top_k, "some name")
    choices = list(permutations(CANDIDATES.tolist(), top_k))
    counts = torch.tensor([int((drawn == torch.tensor(choice)).all(dim=1).sum()) for choice in choices])
    assert counts.sum() == draws, "always different experts, always candidates"
    expected = draws / len(choices)
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    freedom = len(choices) - 1
    assert chi_squared < freedom + 4 * (2 * freedom) ** 0.5, "four standard deviations above its mean"


def test_positions_and_names_are_independent() -> None:
    one, other = (random_experts(CANDIDATES, 20_000, 1, name)[:, 0] for name in ("0/1/code/7", "0/2/code/7"))
    for a, b in ((one, other), (one[1:], one[:-1])):
        assert float((a == b).float().mean()) == pytest.approx(0.25, abs=0.015)
    assert torch.equal(one, random_experts(CANDIDATES, 20_000, 1, "0/1/code/7")[:, 0])


def _run(tp_index: int, tp: int, top_k: int, biases: dict[int, torch.Tensor] | None = None) -> Any:
    groups = SimpleNamespace(tp_index=tp_index, grid=SimpleNamespace(tp=tp))
    model = SimpleNamespace(router_biases=lambda: biases or {})
    return SimpleNamespace(groups=groups, model=model, plan=SimpleNamespace(pool=SimpleNamespace(top_k=top_k)))


def _scores(length: int, rows: int, num_experts: int) -> torch.Tensor:
    """[s, b, M], as a router that gives some experts nothing would."""
    generator = torch.Generator().manual_seed(3)
    return torch.relu(torch.randn(length, rows, num_experts, generator=generator))


def test_gates_are_those_of_the_router() -> None:
    routing = RandomRouting(_run(0, 1, 2), seed=5, candidates=CANDIDATES.tolist())
    routing.sequences("code", [4, 7, 8])
    scores = _scores(16, 3, 12)
    scores[0, 0] = 0.0
    scores[0, 0, 5] = 1.5  # so its second choice has the score 0
    found = routing.on_scores(1, scores.flatten(0, 1)).view(scores.shape)
    torch.testing.assert_close(found.topk(2).values, scores.topk(2).values, atol=0, rtol=0)
    assert (found.flatten(0, 1) > 0).sum(dim=1).tolist() == [1] + [2] * 47
    drawn = {int(expert) for expert in found.nonzero()[:, 2]}
    assert drawn == set(CANDIDATES.tolist())


def test_gates_are_those_of_the_experts_that_a_bias_has_chosen() -> None:
    scores = _scores(16, 3, 12)
    bias = torch.linspace(3.0, 0.0, 12)
    routing = RandomRouting(_run(0, 1, 2, {1: bias}), seed=5, candidates=CANDIDATES.tolist())
    routing.sequences("code", [4, 7, 8])
    found = routing.on_scores(1, scores.flatten(0, 1))
    biased = torch.where(scores > 0, scores + bias, -torch.inf).flatten(0, 1)
    gates = scores.flatten(0, 1).gather(1, biased.topk(2).indices)
    torch.testing.assert_close(found.topk(2).values, gates.sort(descending=True).values, atol=0, rtol=0)
    assert not torch.equal(gates.sort(descending=True).values, scores.flatten(0, 1).topk(2).values)


def test_an_expert_depends_on_the_place_in_the_text_alone() -> None:
    """Of sequence and position, whoever else is in the micro-batch and whichever rank has the token."""
    scores = _scores(16, 3, 12)
    whole = RandomRouting(_run(0, 1, 2), seed=5, candidates=CANDIDATES.tolist())
    whole.sequences("code", [4, 7, 8])
    found = whole.on_scores(1, scores.flatten(0, 1)).view(scores.shape)

    for tp_index in (0, 1):
        half = RandomRouting(_run(tp_index, 2, 2), seed=5, candidates=CANDIDATES.tolist())
        half.sequences("code", [8, 4])
        part = scores[8 * tp_index : 8 * tp_index + 8, [2, 0]]
        mine = half.on_scores(1, part.flatten(0, 1)).view(part.shape)
        assert torch.equal(mine, found[8 * tp_index : 8 * tp_index + 8, [2, 0]])

    for seed, domain, layer in ((6, "code", 1), (5, "prose", 1), (5, "code", 0)):
        other = RandomRouting(_run(0, 1, 2), seed=seed, candidates=CANDIDATES.tolist())
        other.sequences(domain, [4, 7, 8])
        assert not torch.equal(other.on_scores(layer, scores.flatten(0, 1)).view(scores.shape), found)
