"""Observe and replace the choices of a model's routers, without the model's knowledge.

Shapes: s sequence, b batch, T = s / tp * b tokens of this rank, K choices of a token, M experts of the layer's pool.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from unipool_dist.engine.callback import Callback
from unipool_dist.inference.opened import OpenedRun
from unipool_dist.pool.dispatch import choose

OnScores = Callable[[int, Tensor], Tensor | None]
"""``on_scores(layer, scores_TM)``: scores to be used instead, or ``None``."""


@contextmanager
def tapped(run: OpenedRun, on_scores: OnScores, layers: Sequence[int]) -> Iterator[None]:
    """Pass the scores of the routers of ``layers`` through ``on_scores`` in the context, where this rank has them."""

    def hook(layer: int) -> Callable[..., Tensor | None]:
        return lambda module, arguments, scores_TM: on_scores(layer, scores_TM)

    blocks: Any = run.model.stage.layers
    mine = [layer for layer in layers if layer in run.model.layer_range]
    handles = [blocks[str(layer)].router.register_forward_hook(hook(layer)) for layer in mine]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class RandomRouting(Callback):
    """Random routing of a layer: each token goes to K different experts drawn uniformly from ``candidates``.

    The gates stay: the first expert drawn gets the score of the token's best choice, and so on, so that the layer's
    output keeps its scale and only the choice of experts is random.

    The expert drawn depends on seed, layer, domain, number of the sequence and position in it, not on the layout.
    """

    def __init__(self, run: OpenedRun, seed: int, candidates: Sequence[int]) -> None:
        assert len(candidates) >= run.plan.pool.top_k
        self._run, self._seed = run, seed
        self._biases = run.model.router_biases()
        self._candidates = torch.tensor(candidates)
        self._sequences: tuple[str, list[int]] = ("", [])

    def sequences(self, domain: str, numbers: list[int]) -> None:
        """Take note of the sequences that are routed next."""
        self._sequences = (domain, numbers)

    def on_scores(self, layer: int, scores_TM: Tensor) -> Tensor:
        groups, top_k = self._run.groups, self._run.plan.pool.top_k
        domain, numbers = self._sequences
        part = len(scores_TM) // len(numbers)  # s / tp
        first = part * groups.tp_index
        drawn = [
            random_experts(self._candidates, part * groups.grid.tp, top_k, f"{self._seed}/{layer}/{domain}/{number}")[
                first : first + part
            ]
            for number in numbers
        ]
        expert_TK = torch.stack(drawn, dim=1).flatten(0, 1).to(scores_TM.device)  # [s / tp, b, K], as the tokens lie
        _, score_TK = choose(scores_TM, top_k, self._biases.get(layer))
        return torch.zeros_like(scores_TM).scatter_(1, expert_TK, score_TK)


def random_experts(candidates: Tensor, length: int, top_k: int, name: str) -> Tensor:
    """Return [length, K]: for each position K different ``candidates``, drawn uniformly; a function of ``name``."""
    digest = hashlib.sha256(name.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)
    return candidates[torch.rand(length, len(candidates), generator=generator).topk(top_k, dim=1).indices]
