"""Tokens that a run has seen at a step, from its records: the second axis of figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from unipool_dist.observe.usage import Floats


@dataclass(frozen=True)
class TokenScale:
    """A line of pieces from step 0 on; a run whose stages are of one size has one piece."""

    begins: tuple[int, ...]
    """Step after which each piece begins."""
    per_step: tuple[float, ...]
    """Tokens of a step in each."""

    @classmethod
    def of(cls, steps: Sequence[int], tokens: Sequence[int]) -> TokenScale | None:
        """Return the scale of records at ascending ``steps``; ``None`` without any after step 0."""
        begins: list[int] = []
        per_step: list[float] = []
        last_step = last_tokens = 0
        for step, seen in zip(steps, tokens, strict=True):
            if step > last_step:
                slope = (seen - last_tokens) / (step - last_step)
                if not per_step or slope != per_step[-1]:
                    begins.append(last_step)
                    per_step.append(slope)
                last_step, last_tokens = step, seen
        return cls(tuple(begins), tuple(per_step)) if per_step else None

    def millions(self, steps: ArrayLike) -> Floats:
        """Return the millions of tokens seen at ``steps``; past the records as if it went on."""
        at = np.asarray(steps, dtype=float)
        piece = self._piece(at, np.array(self.begins, dtype=float))
        return (self._seen[piece] + (at - np.array(self.begins)[piece]) * np.array(self.per_step)[piece]) / 1e6

    def steps(self, millions: ArrayLike) -> Floats:
        """Return the steps at which so many millions of tokens are seen."""
        tokens = np.asarray(millions, dtype=float) * 1e6
        piece = self._piece(tokens, self._seen)
        return np.array(self.begins)[piece] + (tokens - self._seen[piece]) / np.array(self.per_step)[piece]

    @property
    def _seen(self) -> Floats:
        """Tokens seen where each piece begins."""
        lengths = np.diff(np.array(self.begins, dtype=float))
        return np.concatenate([[0.0], np.cumsum(lengths * np.array(self.per_step)[:-1])])

    @staticmethod
    def _piece(values: Floats, begins: Floats) -> np.ndarray:
        return np.maximum(np.searchsorted(begins, values, side="right") - 1, 0)
