"""Parts of a run that follow from the configuration and the corpus together."""

from __future__ import annotations

from collections.abc import Mapping

from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.config.describe import describe_layout, describe_model, describe_owners
from unipool_dist.config.plan import Plan
from unipool_dist.data import SampleDataset, micro_batch, validation_sequences
from unipool_dist.data.corpora import Corpora
from unipool_dist.data.device_copy import Arriving, DeviceCopies
from unipool_dist.data.read_ahead import ReadAhead, Request
from unipool_dist.engine.evaluate import Sequences
from unipool_dist.engine.pipeline import StageBatch

_MOST_AHEAD = 64
"""Micro-batches: for a step of more than these, the rest is read during the step."""


class BatchSource:
    """Micro-batches of this rank's data-parallel index, read a step ahead; close it when training ends.

    Stages in the middle of the pipeline read no data, unless all have to know where documents end.
    """

    def __init__(self, dataset: SampleDataset, plan: Plan, groups: ParallelGroups) -> None:
        self._dataset, self._plan, self._groups = dataset, plan, groups
        self._reads = groups.is_first_stage or groups.is_last_stage or plan.document_end is not None
        self._copies = DeviceCopies(groups.device)
        most = max(plan.at(stage.first_step).num_microbatches for stage in plan.stages.each)
        self._ahead = ReadAhead(self._read, self._following, min(most, _MOST_AHEAD))

    def __call__(self, consumed_samples: int, microbatch: int) -> StageBatch:
        """Return this rank's micro-batch of the step that begins after ``consumed_samples``, on its device.

        Raises:
            DataError: it cannot be read; names the samples.
        """
        if not self._reads:
            return StageBatch(None, None, None)
        batch = self._ahead(consumed_samples, microbatch).wait()
        return StageBatch(batch.tokens, batch.labels, batch.loss_mask)

    def close(self) -> None:
        """End the thread that reads."""
        self._ahead.close()

    def _read(self, consumed_samples: int, microbatch: int) -> Arriving:
        batch = micro_batch(
            self._dataset,
            consumed_samples=consumed_samples,
            microbatch=microbatch,
            micro_batch_size=self._plan.stages.of_sample(consumed_samples).train.micro_batch_size,
            dp_rank=self._groups.dp_index,
            dp_size=self._groups.grid.dp,
        )
        return self._copies.send(batch)

    def _following(self, consumed_samples: int, microbatch: int) -> Request | None:
        stage = self._plan.stages.of_sample(consumed_samples)
        if microbatch + 1 < self._plan.at(stage.first_step).num_microbatches:
            return consumed_samples, microbatch + 1
        consumed = consumed_samples + stage.train.global_batch_size
        return (consumed, 0) if consumed < self._plan.stages.samples(stage.train.steps) else None


class ValidationByStage:
    """The validation sequences of the stages whose corpora are open, each of its corpus and length.

    All are read at once, so that a damaged file is found before the first step.

    Raises:
        DataError: they cannot be read.
    """

    def __init__(self, corpora: Corpora) -> None:
        self._stages = corpora.stages
        self._sequences: dict[tuple[str, int], dict[str, Sequences]] = {}
        for stage in corpora.stages.each:
            path, length, count = stage.data.path, stage.sequence_length, stage.train.eval_sequences
            if count and path in corpora.by_path and (path, length) not in self._sequences:
                self._sequences[path, length] = {
                    name: validation_sequences(corpora.by_path[path], name, sequence_length=length, count=count)
                    for name in corpora.by_path[path].domains
                }

    def at(self, step: int) -> Mapping[str, Sequences]:
        """Return the sequences by domain for a step; none with ``train.eval_sequences`` 0."""
        stage = self._stages.at(step)
        return self._sequences.get((stage.data.path, stage.sequence_length), {})


def describe(plan: Plan, groups: ParallelGroups) -> str:
    """Describe in two lines what is about to be trained, and where."""
    where = f"{describe_layout(plan)} on {groups.device.type}; {describe_owners(plan)}"
    return f"{describe_model(plan)}\n{where}"
