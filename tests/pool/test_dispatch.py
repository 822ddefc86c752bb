"""Route, dispatch and combine against a loop over tokens, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unipool_dist.pool.dispatch import combine, dispatch, route

TOKENS, EXPERTS, HIDDEN = 9, 6, 4
FIRST = 3
"""Placement position before the pool's first expert: other pools of the group lie around it."""
POSITIONS = FIRST + EXPERTS + 2


def _position() -> Tensor:
    return FIRST + torch.tensor([4, 0, 5, 2, 1, 3])


def _scores(kind: str) -> Tensor:
    torch.manual_seed(1)
    scores = torch.rand(TOKENS, EXPERTS, dtype=torch.float64)
    if kind == "sparse":  # many tokens have fewer than k positive scores, some none
        scores = scores * (torch.rand(TOKENS, EXPERTS) < 0.25)
        scores[2] = 0
    elif kind == "zero":
        scores.zero_()
    return scores


def _expert(position: Tensor, row: Tensor) -> Tensor:
    """A different map for every placement position."""
    return row * (1 + position) + position


def _by_loop(tokens: Tensor, scores: Tensor, top_k: int, normalized: bool = False) -> Tensor:
    position, outputs = _position(), []
    for token, own in zip(tokens, scores, strict=True):
        out = torch.zeros_like(token)
        total = own.topk(top_k).values.sum() if normalized else 1
        for expert in own.topk(top_k).indices.tolist():
            if own[expert] > 0:
                out = out + own[expert] / total * _expert(position[expert], token)
        outputs.append(out)
    return torch.stack(outputs)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("kind", ["dense", "sparse", "zero"])
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_equals_a_loop_over_tokens(top_k: int, kind: str, normalized: bool) -> None:
    tokens = torch.randn(TOKENS, HIDDEN, dtype=torch.float64, requires_grad=True)
    scores = _scores(kind).requires_grad_()
    routing = route(scores, top_k, _position(), POSITIONS)
    num_rows = int(routing.counts_E.sum())
    rows = dispatch(tokens, routing, num_rows)
    places = torch.repeat_interleave(torch.arange(POSITIONS), routing.counts_E).unsqueeze(1)
    out = combine(_expert(places, rows), scores, routing, normalized)
    expected = _by_loop(tokens, scores, top_k, normalized)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(out)
    actual_grads = torch.autograd.grad(out, (tokens, scores), weight)
    if expected.requires_grad:
        expected_grads = torch.autograd.grad(expected, (tokens, scores), weight)
    else:
        expected_grads = torch.zeros_like(tokens), torch.zeros_like(scores)
    for got, wanted in zip(actual_grads, expected_grads, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["dense", "sparse", "zero"])
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_counts_are_those_of_positive_choices(top_k: int, kind: str) -> None:
    scores = _scores(kind)
    routing = route(scores, top_k, _position(), POSITIONS)
    expected = torch.zeros(EXPERTS, dtype=torch.int64)
    for own in scores:
        for expert in own.topk(top_k).indices.tolist():
            expected[expert] += int(own[expert] > 0)
    assert routing.counts_M.tolist() == expected.tolist()
    assert routing.counts_E[_position()].tolist() == expected.tolist()
    assert routing.counts_E.sum() == expected.sum()


def test_rows_lie_in_the_order_of_placement_positions() -> None:
    tokens = torch.arange(float(TOKENS)).unsqueeze(1)
    scores, position = _scores("dense"), _position()
    routing = route(scores, 1, position, POSITIONS)
    rows = dispatch(tokens, routing, int(routing.counts_E.sum())).squeeze(1).long()
    places = position[scores.argmax(dim=1)][rows]
    assert places.tolist() == sorted(places.tolist())
    for place in places.unique():  # within one expert, in the order of tokens
        of_place = rows[places == place].tolist()
        assert of_place == sorted(of_place)


def test_tokens_with_nothing_dispatched_get_exact_zeros() -> None:
    scores = _scores("sparse")
    routing = route(scores, 2, _position(), POSITIONS)
    rows = dispatch(torch.randn(TOKENS, HIDDEN, dtype=torch.float64), routing, int(routing.counts_E.sum()))
    out = combine(torch.full_like(rows, float("inf")), scores, routing)
    nothing = (scores == 0).all(dim=1)
    assert nothing.any() and not out[nothing].any()
