"""Choose the next token from logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """Parameters of sampling.

    ``temperature`` divides the logits; 0 always takes the likeliest token. Of the likeliest tokens, as many are kept as
    are needed for a probability of ``top_p`` (nucleus sampling, arXiv 1904.09751).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


class Sampler:
    """A sequence of draws of tokens that depends on ``seed`` alone."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def draw(self, logits_V: Tensor) -> int:
        """Draw the next token from ``logits_V``, fp32 on the CPU."""
        if self._sampling.temperature == 0:
            return int(logits_V.argmax())
        probability, token = kept(logits_V, self._sampling.temperature, self._sampling.top_p)
        cumulative = probability.cumsum(0)
        at = float(torch.rand((), dtype=torch.float64, generator=self._generator) * cumulative[-1])
        return int(token[min(int(torch.searchsorted(cumulative, at, right=True)), len(token) - 1)])


def kept(logits_V: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Return probabilities (fp64, descending, not summing to 1) of the tokens that may be drawn, and these tokens.

    A token stays if the sum of the probabilities before it is below ``top_p``; at least one does.
    """
    probability, token = torch.softmax(logits_V.double() / temperature, dim=0).sort(descending=True, stable=True)
    before = probability.cumsum(0) - probability
    few = max(1, int((before < top_p).sum()))
    return probability[:few], token[:few]
