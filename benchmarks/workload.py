"""The model that both benchmarks run, and one rank's part of it, ready to train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from unipool_dist.comm.environment import Environment
from unipool_dist.comm.groups import ParallelGroups, process_groups
from unipool_dist.config import Plan, load_config, resolve
from unipool_dist.engine.gradients import GradientBuffers
from unipool_dist.engine.pipeline import Pipeline, StageBatch
from unipool_dist.model.assembly import PooledModel, build_model
from unipool_dist.schedule.registry import training_schedule


@dataclass(frozen=True)
class Workload:
    """Sizes of the model and of a micro-batch."""

    num_layers: int = 8
    hidden_size: int = 256
    ffn_hidden_size: int = 1024
    num_attention_heads: int = 4
    num_query_groups: int = 2
    vocab_size: int = 4096
    sequence_length: int = 256
    micro_batch_size: int = 8
    experts_per_layer: int = 8

    @property
    def tokens(self) -> int:
        """Tokens in a micro-batch."""
        return self.micro_batch_size * self.sequence_length

    def config(self, world_size: int, *overrides: str) -> Plan:
        """A UniPool of these sizes: one pool of ``experts_per_layer * num_layers`` experts."""
        sizes = [
            f"model.num_layers={self.num_layers}",
            f"model.hidden_size={self.hidden_size}",
            f"model.ffn_hidden_size={self.ffn_hidden_size}",
            f"model.num_attention_heads={self.num_attention_heads}",
            f"model.num_query_groups={self.num_query_groups}",
            f"model.vocab_size={self.vocab_size}",
            f"model.sequence_length={self.sequence_length}",
            f"pool.num_experts={self.experts_per_layer * self.num_layers}",
            f"train.micro_batch_size={self.micro_batch_size}",
        ]
        return resolve(load_config(None, [*sizes, *overrides]), world_size)


class Rank:
    """One rank's part of a UniPool: forward and backward of whole steps, gradients into ``main_grad``, no optimizer."""

    def __init__(self, config: Plan, groups: ParallelGroups) -> None:
        self.config, self.groups = config, groups
        self.model: PooledModel = build_model(config, groups)
        self._gradients = GradientBuffers(self.model)
        self._pipeline = Pipeline(config, groups, self.model)
        self._positions = config.train.global_batch_size * config.model.sequence_length
        num_microbatches = config.train.global_batch_size // (config.train.micro_batch_size * groups.grid.dp)
        self._schedule = training_schedule(config.parallel.schedule, config.parallel.pp, num_microbatches)
        self.num_microbatches = num_microbatches

    def run(self, batches: list[StageBatch]) -> None:
        """One step: zeroed gradients, every micro-batch forward and backward, balance statistics.

        Collectives: those of :meth:`Pipeline.train` and :meth:`Balance.end_step`.
        """
        self._gradients.zero()
        self._pipeline.train(self._schedule, batches, self.config, num_loss_tokens=self._positions)
        self.model.balance.end_step()


@contextmanager
def rank_of(config: Plan, environment: Environment) -> Iterator[Rank]:
    """This process's part of the model that ``config`` describes, among all processes of ``environment``."""
    with process_groups(config, environment) as groups:
        yield Rank(config, groups)
