"""Choose the next token from logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unipool_dist.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """Parameters of sampling.

    ``temperature`` divides the logits; 0 always takes the likeliest token. The ``top_k`` likeliest tokens are kept, or
    all for ``None``; of these, as many of the likeliest as are needed for a share ``top_p`` of their probability
    (nucleus sampling, arXiv 1904.09751).

    Raises:
        ConfigError: a value is out of its range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    top_k: int | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ConfigError(f"temperature={self.temperature}: give 0 or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p}: give more than 0 and at most 1")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k={self.top_k}: give 1 or more, or None for all tokens")


class Sampler:
    """A sequence of draws of tokens that depends on ``seed`` alone."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def draw(self, logits_V: Tensor) -> int:
        """Draw the next token from ``logits_V``, fp32 on the CPU."""
        if self._sampling.temperature == 0:
            return int(logits_V.argmax())
        sampling = self._sampling
        probability, token = kept(logits_V, sampling.temperature, sampling.top_p, sampling.top_k)
        cumulative = probability.cumsum(0)
        at = float(torch.rand((), dtype=torch.float64, generator=self._generator) * cumulative[-1])
        return int(token[min(int(torch.searchsorted(cumulative, at, right=True)), len(token) - 1)])


def kept(logits_V: Tensor, temperature: float, top_p: float, top_k: int | None = None) -> tuple[Tensor, Tensor]:
    """Return probabilities (fp64, descending, not summing to 1) of the tokens that may be drawn, and these tokens.

    Of the ``top_k`` likeliest tokens one stays if the probabilities before it are less than ``top_p`` of the sum of all
    of these; at least one does.
    """
    probability, token = torch.softmax(logits_V.double() / temperature, dim=0).sort(descending=True, stable=True)
    probability, token = probability[:top_k], token[:top_k]
    before = probability.cumsum(0) - probability
    share = top_p if top_k is None else top_p * probability.sum()
    few = max(1, int((before < share).sum()))
    return probability[:few], token[:few]
