"""Who uses which expert: the numbers for cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipool_dist.probe.plots import is_logarithmic
from unipool_dist.probe.sharing import Path, count_choices, layers_using, lift, most_used, path_of

# Two tokens, three layers, one choice: token 0 meets experts 4, 4, 1; token 1 meets 2, 0 and, by a score of 0, nobody.
CHOSEN = np.array([[[4], [2]], [[4], [0]], [[1], [-1]]])


def test_distinct_experts_of_tokens() -> None:
    path = path_of(CHOSEN, 5)
    assert (path.chosen_L.tolist(), path.new_L.tolist()) == ([2, 2, 1], [2, 1, 1])
    assert path.distinct.tolist() == [1.0, 3 / 4, 4 / 5]


def test_paths_of_more_tokens_are_summed() -> None:
    halves = [path_of(CHOSEN[:, :1], 5), path_of(CHOSEN[:, 1:], 5)]
    both = halves[0] + halves[1]
    assert both.distinct.tolist() == path_of(CHOSEN, 5).distinct.tolist()
    assert Path(np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)).distinct.tolist() == [0.0, 0.0]


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 3), st.integers(0, 1000))
def test_distinct_experts_are_those_of_a_set(layers: int, tokens: int, top_k: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    chosen = np.stack([[draw.permutation(6)[:top_k] for _ in range(tokens)] for _ in range(layers)])
    chosen = np.where(draw.random(chosen.shape) < 0.2, -1, chosen)
    path = path_of(chosen, 6)
    for depth in range(layers):
        met = [{int(e) for e in chosen[: depth + 1, token].flatten() if e >= 0} for token in range(tokens)]
        assert path.new_L[: depth + 1].sum() == sum(map(len, met))
        assert path.chosen_L[: depth + 1].sum() == (chosen[: depth + 1] >= 0).sum()
    np.testing.assert_array_equal(count_choices(chosen, 6).sum(axis=1), path.chosen_L)


def test_choices_are_counted_by_layer_and_expert() -> None:
    assert count_choices(CHOSEN, 5).tolist() == [[0, 0, 1, 0, 1], [1, 0, 0, 0, 1], [0, 1, 0, 0, 0]]


def test_most_used_experts() -> None:
    counts = np.array([3, 9, 0, 9, 3, 3])
    assert most_used(counts, 3).tolist() == [0, 1, 3]
    assert most_used(counts, 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_layers_that_use_an_expert() -> None:
    counts = np.array(
        [
            [100, 25, 13, 0, 1],
            [0, 25, 12, 0, 0],
            [0, 25, 75, 0, 0],
            [0, 25, 0, 0, 0],
        ]
    )
    # In turn: one owner; all alike; an eighth is the least that counts, 13 of 100 and not 12; dead; one choice in all.
    assert layers_using(counts, 4).tolist() == [1, 4, 2, 0, 1]


def test_experts_of_a_layer_of_its_own_are_used_by_it() -> None:
    counts = np.array([[1, 99, 0, 0], [0, 0, 50, 50]])
    assert layers_using(counts, 1).tolist() == [1, 1, 1, 1]


def test_affinity_of_domains_and_experts() -> None:
    # The second domain has ten times the text; the last expert is never chosen.
    found = lift(np.array([[50, 50, 0, 0], [500, 0, 500, 0]]))
    assert found[:, :3].tolist() == [[1.0, 2.0, 0.0], [1.0, 0.0, 2.0]]
    assert np.isnan(found[:, 3]).all()


def test_affinity_does_not_depend_on_how_much_text_there_is() -> None:
    counts = np.array([[5, 7, 1], [3, 2, 9]])
    assert lift(counts * [[1], [10]]) == pytest.approx(lift(counts))


@pytest.mark.parametrize(
    ("added", "logarithmic"),
    [([0.05, 0.25], False), ([0.02, 2.0], True), ([0.0, 0.001], False), ([-0.001, 0.19], False), ([0.0, 0.3], True)],
)
def test_losses_of_different_magnitude_are_drawn_on_a_logarithmic_scale(added: list[float], logarithmic: bool) -> None:
    assert is_logarithmic(np.array(added)) is logarithmic
