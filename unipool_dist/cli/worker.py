"""One process of a run: joins the others, builds its part, trains; or says clearly why it stops."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import torch.distributed as dist

from unipool_dist.cli.observer import RunObserver
from unipool_dist.cli.rundir import begin_run_dir
from unipool_dist.config import Config, resolve_config
from unipool_dist.data import Corpus, SampleDataset, micro_batch, training_dataset, validation_sequences
from unipool_dist.engine.pipeline import StageBatch
from unipool_dist.engine.trainer import GetBatch, Trainer
from unipool_dist.engine.zero import read_deepspeed_config
from unipool_dist.errors import CommunicationError, ConfigError, UnipoolError
from unipool_dist.model.assembly import build_model
from unipool_dist.topology.agreement import failing_together
from unipool_dist.topology.environment import Environment, read_environment
from unipool_dist.topology.groups import ParallelGroups, process_groups
from unipool_dist.topology.layout import rank_grid


def run_worker(config: Config, *, overwrite: bool) -> None:
    """Run this process's part of training; does not return if it fails.

    A failing process ends at once, without the usual clean-up: waiting for a process group that has lost a member can
    take for ever, and the launcher ends the others.
    """
    environment = read_environment()
    try:
        _train(config, environment, overwrite=overwrite)
    except UnipoolError as error:
        _stop(environment, f"{error}")
    except (dist.DistError, RuntimeError) as error:
        if not _is_communication_failure(error):
            raise
        _stop(environment, f"{_communication_error(config, environment, error)}")


def _train(config: Config, environment: Environment, *, overwrite: bool) -> None:
    resolved = resolve_config(config, environment.world_size)
    rank_grid(resolved)
    read_deepspeed_config(resolved.optimizer.deepspeed)
    with process_groups(resolved, environment) as groups:
        with failing_together("opening the corpus"):
            corpus = Corpus.open(resolved.data.path, verify="size")
            resolved = with_vocabulary(resolved, corpus)
        with failing_together(f"preparing run.dir={resolved.run.dir}"):
            if groups.rank == 0:
                if resolved.data.verify == "hash":
                    Corpus.open(resolved.data.path, verify="hash")
                entropy = {name: domain.unigram_entropy for name, domain in corpus.domains.items()}
                begin_run_dir(Path(resolved.run.dir), resolved, entropy, overwrite=overwrite)
        model = build_model(resolved, groups)
        observer = RunObserver(resolved, corpus) if groups.rank == 0 else None
        if observer is not None:
            click.echo(describe(resolved, groups))
        sequence_length, train = resolved.model.sequence_length, resolved.train
        dataset = training_dataset(
            corpus,
            sequence_length=sequence_length,
            num_samples=train.steps * train.global_batch_size,
            seed=train.seed,
            weights=resolved.data.weights,
        )
        validation = {
            name: validation_sequences(corpus, name, sequence_length=sequence_length, count=train.eval_sequences)
            for name in (corpus.domains if train.eval_sequences else ())
        }
        trainer = Trainer(resolved, groups, model, batch_source(dataset, resolved, groups), validation, observer)
        try:
            trainer.run()
        finally:
            if observer is not None:
                observer.close()
        if observer is not None:
            observer.finish()


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


def _is_communication_failure(error: Exception) -> bool:
    text = str(error).lower()
    signs = ("gloo", "nccl", "connection", "timed out", "timeout", "socket", "peer", "tcpstore")
    return isinstance(error, dist.DistError) or any(sign in text for sign in signs)


def _communication_error(config: Config, environment: Environment, error: Exception) -> CommunicationError:
    first_line = str(error).strip().splitlines()[0]
    return CommunicationError(
        f"lost the other processes in a collective ({type(error).__name__}: {first_line}). Another rank has died, or "
        f"has been stuck for parallel.timeout_s={config.parallel.timeout_s:g} s: the first error in the log, on "
        f"whichever rank, is the cause. Start the run again once it is dealt with"
    )


def _stop(environment: Environment, message: str) -> None:
    sys.stdout.flush()
    print(f"error (rank {environment.rank}): {message}", file=sys.stderr, flush=True)
    os._exit(1)
