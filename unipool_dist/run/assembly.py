"""Parts of a run that follow from the configuration and the corpus together."""

from __future__ import annotations

from unipool_dist.config import Config
from unipool_dist.config.describe import describe_layout, describe_model, describe_owners
from unipool_dist.data import Corpus, SampleDataset, micro_batch
from unipool_dist.engine.pipeline import StageBatch
from unipool_dist.engine.trainer import GetBatch
from unipool_dist.errors import ConfigError
from unipool_dist.topology.groups import ParallelGroups


def with_vocabulary(config: Config, corpus: Corpus) -> Config:
    """``config`` with the vocabulary of the corpus's tokenizer, padded to a multiple of ``model.vocab_divisor``.

    Raises:
        ConfigError: a size was given that the tokenizer does not fit.
    """
    size, divisor = config.model.vocab_size, config.model.vocab_divisor
    if size is None:
        size = -(-corpus.vocab_size // divisor) * divisor
    if size < corpus.vocab_size:
        raise ConfigError(
            f"model.vocab_size={size} must be at least the tokenizer's {corpus.vocab_size}; set it to null to have it "
            f"chosen"
        )
    return config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": size})})


def batch_source(dataset: SampleDataset, config: Config, groups: ParallelGroups) -> GetBatch:
    """Micro-batches of this rank's data-parallel index; stages in the middle of the pipeline read no data."""

    def get(consumed_samples: int, microbatch: int) -> StageBatch:
        if not (groups.is_first_stage or groups.is_last_stage):
            return StageBatch(None, None, None)
        batch = micro_batch(
            dataset,
            consumed_samples=consumed_samples,
            microbatch=microbatch,
            micro_batch_size=config.train.micro_batch_size,
            dp_rank=groups.dp_index,
            dp_size=groups.grid.dp,
            device=groups.device,
        )
        return StageBatch(batch.tokens, batch.labels, batch.loss_mask)

    return get


def describe(config: Config, groups: ParallelGroups) -> str:
    """Two lines on what is about to be trained, where."""
    where = f"{describe_layout(config)} on {groups.device.type}; {describe_owners(config)}"
    return f"{describe_model(config)}\n{where}"
