"""Temperature and top-p do to a distribution what they should."""

from __future__ import annotations

import pytest
import torch

from unipool_dist.errors import ConfigError
from unipool_dist.inference.sampler import Sampler, Sampling, kept

LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.05, 0.25, 0.2]))


def frequencies(sampling: Sampling, draws: int = 4000) -> torch.Tensor:
    sampler = Sampler(sampling)
    drawn = torch.tensor([sampler.draw(LOGITS) for _ in range(draws)])
    return torch.bincount(drawn, minlength=len(LOGITS)) / draws


def test_temperature_1_draws_from_the_distribution_itself() -> None:
    torch.testing.assert_close(frequencies(Sampling()), LOGITS.exp(), atol=0.025, rtol=0)


def test_temperature_sharpens_and_flattens() -> None:
    half = LOGITS.exp() ** 2  # a temperature of 1/2 squares
    torch.testing.assert_close(frequencies(Sampling(temperature=0.5)), half / half.sum(), atol=0.025, rtol=0)
    torch.testing.assert_close(frequencies(Sampling(temperature=1e6)), torch.full((5,), 0.2), atol=0.025, rtol=0)


def test_temperature_0_takes_the_likeliest() -> None:
    assert frequencies(Sampling(temperature=0.0), draws=20).tolist() == [0, 1, 0, 0, 0]
    assert frequencies(Sampling(temperature=1e-6), draws=20).tolist() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("top_p", "tokens"),
    [(1e-9, [1]), (0.39, [1]), (0.41, [1, 3]), (0.7, [1, 3, 4]), (0.95, [1, 3, 4, 0]), (1.0, [1, 3, 4, 0, 2])],
)
def test_top_p_keeps_as_few_tokens_as_have_this_probability(top_p: float, tokens: list[int]) -> None:
    probability, token = kept(LOGITS, 1.0, top_p)
    assert token.tolist() == tokens
    torch.testing.assert_close(probability, LOGITS[token].exp().double(), atol=1e-6, rtol=0)


def test_what_is_kept_is_drawn_in_proportion() -> None:
    found = frequencies(Sampling(top_p=0.6))
    torch.testing.assert_close(found, torch.tensor([0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]), atol=0.025, rtol=0)


def test_draws_depend_on_the_seed_alone() -> None:
    def drawn(seed: int) -> list[int]:
        sampler = Sampler(Sampling(seed=seed))
        return [sampler.draw(LOGITS) for _ in range(30)]

    torch.manual_seed(1)
    first = drawn(7)
    torch.manual_seed(2)
    assert drawn(7) == first != drawn(8)


@pytest.mark.parametrize(
    ("top_k", "top_p", "tokens"), [(1, 1.0, [1]), (3, 1.0, [1, 3, 4]), (9, 1.0, [1, 3, 4, 0, 2]), (2, 0.6, [1])]
)
def test_top_k_keeps_the_likeliest_and_top_p_a_share_of_them(top_k: int, top_p: float, tokens: list[int]) -> None:
    """Of the two likeliest the first has 0.4 / 0.65 of the probability."""
    assert kept(LOGITS, 1.0, top_p, top_k)[1].tolist() == tokens


def test_values_out_of_range_are_refused() -> None:
    for values in ({"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"temperature": -1.0}):
        ((name, _),) = values.items()
        with pytest.raises(ConfigError, match=f"{name}="):
            Sampling(**values)
