"""Parts of a run that follow from the configuration and the corpus together."""

from __future__ import annotations

from unipool_dist.config import Config
from unipool_dist.data import Corpus, SampleDataset, micro_batch
from unipool_dist.engine.pipeline import StageBatch
from unipool_dist.engine.trainer import GetBatch
from unipool_dist.errors import ConfigError
from unipool_dist.topology.groups import ParallelGroups


def with_vocabulary(config: Config, corpus: Corpus) -> Config:
    """``config`` with the vocabulary of the corpus's tokenizer, padded to a multiple of ``model.vocab_divisor``.

    Raises:
        ConfigError: a size was given that the tokenizer or tensor parallelism does not fit.
    """
    size, divisor = config.model.vocab_size, config.model.vocab_divisor
    if size is None:
        size = -(-corpus.vocab_size // divisor) * divisor
    if size < corpus.vocab_size or size % config.parallel.tp:
        raise ConfigError(
            f"model.vocab_size={size} must be at least the tokenizer's {corpus.vocab_size} and a multiple of "
            f"parallel.tp={config.parallel.tp}; set it to null to have it chosen"
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
    """One paragraph on what is about to be trained, where."""
    grid, pool = groups.grid, config.pool
    assert pool.layers_per_group is not None
    num_pools = config.model.num_layers // pool.layers_per_group
    pools = "one pool" if num_pools == 1 else f"{num_pools} pools"
    span = f"{grid.stages_per_group} of {grid.pp} pipeline stages" if grid.pp > 1 else "one pipeline stage"
    return (
        f"{config.model.num_layers} layers, hidden {config.model.hidden_size}, {pools} of {pool.num_experts} experts, "
        f"top-{pool.top_k}, {pool.router} router, {config.train.dtype}\n"
        f"pp {grid.pp} x dp {grid.dp} x tp {grid.tp} = {grid.world_size} processes on {groups.device.type}; each copy "
        f"of the pool is owned by {grid.pool_parallel_size} ranks over {span}"
    )
