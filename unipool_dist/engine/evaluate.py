"""Validation loss, domain by domain, on any layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.config.plan import Plan
from unipool_dist.engine.callback import SILENT, Callback
from unipool_dist.engine.pipeline import Pipeline, StageBatch


class Sequences(Protocol):
    """Sequences of one domain, [n, s] each, the same on every rank."""

    @property
    def tokens(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def loss_mask(self) -> Tensor: ...


class Evaluation:
    """Mean token loss over fixed sequences of every domain; changes neither gradients nor balance statistics."""

    def __init__(self, plan: Plan, groups: ParallelGroups, pipeline: Pipeline, callback: Callback = SILENT) -> None:
        self._groups, self._pipeline, self._callback = groups, pipeline, callback
        self._rows, self._document_end = plan.train.micro_batch_size, plan.document_end

    def run(self, domains: Mapping[str, Sequences], first: int = 0, rows: int | None = None) -> dict[str, float]:
        """Return the loss in nats per token for every domain; the same on every rank.

        Args:
            first: number, for callbacks, of the first sequence of each domain.
            rows: sequences of a rank in a micro-batch; ``None``: ``train.micro_batch_size``.

        Collectives: for every domain those of a forward-only schedule; then one all-reduce over the world.
        """
        sums = torch.zeros(len(domains), 2, dtype=torch.float64, device=self._groups.device)
        for index, (name, sequences) in enumerate(domains.items()):
            loss, count = self._sum(name, sequences, first, rows or self._rows)
            if self._groups.tp_index == 0:
                sums[index, 0], sums[index, 1] = loss, count
        dist.all_reduce(sums, group=self._groups.world)
        return {name: loss / max(count, 1.0) for name, (loss, count) in zip(domains, sums.tolist(), strict=True)}

    def _sum(self, domain: str, sequences: Sequences, first: int, rows: int) -> tuple[Tensor, Tensor]:
        """Return the summed token loss of this rank's rows and the number of tokens; 0 except on the last stage."""
        numbers = self._numbers(len(sequences.tokens), rows)
        batches = [self._batch(sequences, each) for each in numbers]
        loss, count = torch.zeros(2, device=self._groups.device).unbind()

        def add(microbatch: int, losses: Tensor) -> None:
            nonlocal loss, count
            mask = batches[microbatch].loss_mask
            assert mask is not None
            loss, count = loss + (losses * mask).sum(), count + mask.sum()

        def begin(microbatch: int) -> None:
            self._callback.sequences(domain, [first + number for number in numbers[microbatch]])

        self._pipeline.forward(batches, add, begin)
        return loss, count

    def _numbers(self, total: int, rows: int) -> list[list[int]]:
        """Return for each micro-batch the numbers of this data-parallel rank's sequences, as many on each."""
        dp, index = self._groups.grid.dp, self._groups.dp_index
        starts = range(index * rows, -(-total // (dp * rows)) * dp * rows, dp * rows)
        return [list(range(start, start + rows)) for start in starts]

    def _batch(self, sequences: Sequences, numbers: list[int]) -> StageBatch:
        """Return a batch of the sequences; those past the last are repeated with no weight."""
        wanted = torch.tensor(numbers)
        take = wanted.clamp_max(len(sequences.tokens) - 1)
        mask = sequences.loss_mask[take] * (wanted < len(sequences.tokens)).unsqueeze(1)
        tensors = (sequences.tokens[take], sequences.labels[take], mask)
        batch = StageBatch(*(tensor.to(self._groups.device) for tensor in tensors))
        return batch.within_documents(self._document_end)
