"""Parts of a run that follow from the configuration and the corpus together."""

from __future__ import annotations

from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.config.describe import describe_layout, describe_model, describe_owners
from unipool_dist.config.plan import Plan
from unipool_dist.data import SampleDataset, micro_batch
from unipool_dist.engine.pipeline import StageBatch
from unipool_dist.engine.trainer import GetBatch


def batch_source(dataset: SampleDataset, plan: Plan, groups: ParallelGroups) -> GetBatch:
    """Return micro-batches of this rank's data-parallel index; stages in the middle of the pipeline read no data."""

    def get(consumed_samples: int, microbatch: int) -> StageBatch:
        if not (groups.is_first_stage or groups.is_last_stage):
            return StageBatch(None, None, None)
        batch = micro_batch(
            dataset,
            consumed_samples=consumed_samples,
            microbatch=microbatch,
            micro_batch_size=plan.train.micro_batch_size,
            dp_rank=groups.dp_index,
            dp_size=groups.grid.dp,
            device=groups.device,
        )
        return StageBatch(batch.tokens, batch.labels, batch.loss_mask)

    return get


def describe(plan: Plan, groups: ParallelGroups) -> str:
    """Describe in two lines what is about to be trained, and where."""
    where = f"{describe_layout(plan)} on {groups.device.type}; {describe_owners(plan)}"
    return f"{describe_model(plan)}\n{where}"
