"""How layers and domains share the experts: numbers from the choices of tokens. Pure numpy.

Shapes: L layers, T tokens, K choices of a token in a layer, M experts of a pool, E experts of all pools, C domains.
Experts have global ids; -1 marks a choice with score 0, which is not made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unipool_dist.observe.usage import Counts, Floats


@dataclass(frozen=True)
class Path:
    """Experts met by tokens on their way up: sums over tokens, int64 [L]."""

    chosen_L: Counts
    new_L: Counts
    """The part of these choices whose expert the token had met in no layer below."""

    def __add__(self, other: Path) -> Path:
        return Path(self.chosen_L + other.chosen_L, self.new_L + other.new_L)

    @property
    def distinct(self) -> Floats:
        """Distinct experts over experts met, up to and including layer l: float64 [L]; 1 if no token met one twice."""
        return self.new_L.cumsum() / np.maximum(self.chosen_L.cumsum(), 1)


def path_of(expert_LTK: Counts, num_experts: int) -> Path:
    """Count the choices ``expert_LTK`` of some tokens; ids are below ``num_experts``, which is E."""
    num_layers, num_tokens, _ = expert_LTK.shape
    met_TE = np.zeros((num_tokens, num_experts), dtype=bool)
    chosen_L, new_L = np.zeros((2, num_layers), dtype=np.int64)
    for layer, expert_TK in enumerate(expert_LTK):
        for expert_T in expert_TK.T:
            token = np.flatnonzero(expert_T >= 0)
            expert = expert_T[token]
            chosen_L[layer] += len(token)
            new_L[layer] += np.count_nonzero(~met_TE[token, expert])
            met_TE[token, expert] = True
    return Path(chosen_L, new_L)


def count_choices(expert_LTK: Counts, num_experts: int) -> Counts:
    """Count how often each layer chose each expert: int64 [L, E]."""
    return np.stack([np.bincount(expert_TK[expert_TK >= 0], minlength=num_experts) for expert_TK in expert_LTK]).astype(
        np.int64
    )


def most_used(counts_M: Counts, num: int) -> Counts:
    """Return the ids of the ``num`` experts chosen most, ties broken by id, in ascending order: int64 [num]."""
    return np.sort(np.argsort(-counts_M, kind="stable")[:num])


def layers_using(counts_LE: Counts, layers_per_pool: int) -> Counts:
    """Count the layers that use each expert, that is, make at least ``1 / (2 G)`` of its choices: int64 [E].

    G layers share its pool; if all use it alike, each makes ``1 / G``. The count is 0 for an expert that is never
    chosen, G for one that all layers use alike, 1 for one that a single layer uses.
    """
    total_E = counts_LE.sum(axis=0)
    using: Counts = ((counts_LE > 0) & (counts_LE * 2 * layers_per_pool >= total_E)).sum(axis=0)
    return using


def lift(counts_CE: Counts) -> Floats:
    """Return the affinity of domain and expert, ``p(e | d) / mean over domains of p(e | d)``: float64 [C, E].

    1 if the expert is chosen in that domain as often as in the others, D if only in that domain, 0 if never there;
    NaN for an expert that is chosen in none. Domains weigh the same, however long their texts.
    """
    share_CE = counts_CE / np.maximum(counts_CE.sum(axis=1, keepdims=True), 1)
    mean_E = share_CE.mean(axis=0)
    return np.where(mean_E > 0, share_CE / np.where(mean_E > 0, mean_E, 1.0), np.nan)
