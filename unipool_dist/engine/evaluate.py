"""Validation loss, domain by domain, on any layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.config import Config
from unipool_dist.engine.pipeline import Pipeline, StageBatch
from unipool_dist.engine.schedule import forward_only
from unipool_dist.topology.groups import ParallelGroups


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

    def __init__(self, config: Config, groups: ParallelGroups, pipeline: Pipeline) -> None:
        self._groups, self._pipeline = groups, pipeline
        self._rows = config.train.micro_batch_size

    def run(self, domains: Mapping[str, Sequences]) -> dict[str, float]:
        """Loss in nats per token for every domain; the same on every rank.

        Collectives: for every domain those of a forward-only schedule; then one all-reduce over the world.
        """
        sums = torch.zeros(len(domains), 2, dtype=torch.float64, device=self._groups.device)
        for index, sequences in enumerate(domains.values()):
            batches = self._batches(sequences)
            schedule = forward_only(self._groups.grid.pp, len(batches))
            loss, count = self._pipeline.evaluate(schedule, batches)
            if self._groups.tp_index == 0:
                sums[index, 0], sums[index, 1] = loss, count
        dist.all_reduce(sums, group=self._groups.world)
        return {name: loss / max(count, 1.0) for name, (loss, count) in zip(domains, sums.tolist(), strict=True)}

    def _batches(self, sequences: Sequences) -> list[StageBatch]:
        """This data-parallel rank's micro-batches; rows that are missing from the last ones are repeated with no
        weight."""
        dp, index, rows = self._groups.grid.dp, self._groups.dp_index, self._rows
        total = len(sequences.tokens)
        batches = []
        for first in range(0, total, dp * rows):
            wanted = torch.arange(first + index * rows, first + (index + 1) * rows)
            take = wanted.clamp_max(total - 1)
            mask = sequences.loss_mask[take] * (wanted < total).unsqueeze(1)
            tokens, labels = sequences.tokens[take], sequences.labels[take]
            batches.append(StageBatch(*(tensor.to(self._groups.device) for tensor in (tokens, labels, mask))))
        return batches
