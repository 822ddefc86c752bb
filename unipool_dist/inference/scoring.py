"""The likelihood of continuations of contexts under a model, on any layout.

Shapes: s sequence, b batch, v vocabulary (each rank of a tensor-parallel group has v / tp of it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.engine.pipeline import StageBatch
from unipool_dist.inference.opened import OpenedRun

_MICROBATCHES = 8
"""In one pass through the pipeline, padded to the longest; requests are sorted by length first."""


@dataclass(frozen=True)
class Request:
    """A question: how likely is ``continuation`` after ``context``? Both are tokens, and not empty."""

    context: list[int]
    continuation: list[int]


@dataclass(frozen=True)
class Score:
    """An answer: ``logprob``, ln of the continuation's probability; ``greedy``: all its tokens are the likeliest."""

    logprob: float
    greedy: bool


@dataclass(frozen=True)
class _Row:
    tokens: list[int]
    labels: list[int]
    scored: list[int]  # positions of the labels that count


class Scorer:
    """Answers requests, all ranks together.

    Where context and continuation are longer than ``model.sequence_length + 1`` tokens, they lose tokens at the
    beginning; the continuation loses some only if it alone is too long. With ``data.reset_at_documents`` a token that
    follows an end of document is not scored, as it has no loss in training.
    """

    def __init__(self, run: OpenedRun) -> None:
        self._run = run
        self._rows = run.plan.train.micro_batch_size

    @property
    def at_once(self) -> int:
        """Number of requests that are answered in one pass."""
        return self._rows * self._run.groups.grid.dp * _MICROBATCHES

    def __call__(self, requests: Sequence[Request]) -> list[Score]:
        """Return scores in the order of ``requests``; both are the same on every rank.

        Collectives: for every :attr:`at_once` requests those of :meth:`Pipeline.forward`, of
        :func:`token_scores` on the last stage; then one all-reduce over the world.
        """
        groups = self._run.groups
        length, end = self._run.plan.model.sequence_length, self._run.plan.document_end
        rows = [_row(request, length, end) for request in requests]
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index].tokens))
        sums = torch.zeros(len(rows), 2, dtype=torch.float64, device=groups.device)
        for start in range(0, len(order), self.at_once):
            self._pass([(index, rows[index]) for index in order[start : start + self.at_once]], sums)
        self._run.model.exchange.reset_traffic()  # or it would grow for ever
        dist.all_reduce(sums, group=groups.world)
        return [
            Score(logprob, greedy == len(row.scored))
            for (logprob, greedy), row in zip(sums.tolist(), rows, strict=True)
        ]

    def _pass(self, numbered: list[tuple[int, _Row]], sums: Tensor) -> None:
        """Add log-probability and number of greedy tokens of this rank's requests to ``sums`` [requests, 2].

        Every rank runs equally many micro-batches of equally many rows, padded with rows that are not scored.
        """
        groups, tp = self._run.groups, self._run.groups.grid.tp
        longest = -(-max(len(row.tokens) for _, row in numbered) // tp) * tp
        count = -(-len(numbered) // (self._rows * groups.grid.dp))
        mine = numbered[groups.dp_index :: groups.grid.dp]
        mine += [(0, _Row([0], [0], []))] * (count * self._rows - len(mine))
        parts = [mine[start : start + self._rows] for start in range(0, len(mine), self._rows)]
        batches = [StageBatch(self._padded([row.tokens for _, row in part], longest), None, None) for part in parts]

        def use(microbatch: int, logits: Tensor) -> None:
            part = parts[microbatch]
            labels = self._padded([row.labels for _, row in part], longest)
            logprob, greedy = token_scores(logits, labels.transpose(0, 1), groups.tp)
            if groups.tp_index == 0:
                for place, (index, row) in enumerate(part):
                    sums[index, 0] += logprob[row.scored, place].double().sum()
                    sums[index, 1] += greedy[row.scored, place].sum()

        self._run.pipeline.forward(batches, use)

    def _padded(self, rows: list[list[int]], length: int) -> Tensor:
        """Return [b, length], padded at the end with token 0, which causal attention hides from earlier tokens."""
        padded = torch.zeros(len(rows), length, dtype=torch.int64)
        for place, row in enumerate(rows):
            padded[place, : len(row)] = torch.tensor(row)
        return padded.to(self._run.groups.device)


def token_scores(logits: Tensor, labels_sb: Tensor, tp: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Return ln of the probability of each label (fp32), and whether no token is likelier, [s, b] each.

    ``logits`` [s, b, v / tp], fp32: this rank's part of the vocabulary; the softmax is over all of it, padding
    included, as in training.

    Collectives: three all-reduces over ``tp``.
    """
    size = logits.shape[2]
    largest = logits.amax(dim=2)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=tp)
    total = torch.exp(logits - largest.unsqueeze(2)).sum(dim=2)
    dist.all_reduce(total, group=tp)
    local = labels_sb - tp.rank() * size
    here = (local >= 0) & (local < size)
    label = logits.gather(2, local.clamp(0, size - 1).unsqueeze(2)).squeeze(2) * here
    dist.all_reduce(label, group=tp)
    return label - largest - total.log(), label >= largest


def _row(request: Request, length: int, end: int | None) -> _Row:
    text = [*request.context, *request.continuation][-(length + 1) :]
    last = len(text) - 1
    scored = [place for place in range(max(0, last - len(request.continuation)), last) if text[place] != end]
    return _Row(text[:-1], text[1:], scored)
