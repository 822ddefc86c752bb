"""A run with nothing left open: what a configuration means for a number of processes and a vocabulary.

:func:`unipool_dist.config.resolution.resolve` makes a :class:`Plan`. Until the corpus, which may decide the
vocabulary, is open there is an :class:`Outline`: enough for process groups and checks, not for building a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

from unipool_dist.config.deepspeed import ZeroSettings
from unipool_dist.config.roles import InferenceToo, Io, Layout, Shape, Start
from unipool_dist.config.run_stages import RunStages
from unipool_dist.config.sections import (
    CheckpointSection,
    Config,
    DataSection,
    LogSection,
    ModelSection,
    OptimizerSection,
    ParallelSection,
    PoolSection,
    RunSection,
    TrainSection,
)
from unipool_dist.errors import ConfigError
from unipool_dist.layout.pool_map import PoolMap
from unipool_dist.layout.rank_grid import RankGrid


class ModelSizes(ModelSection):
    """The dense part; the vocabulary may still be open."""

    ffn_hidden_size: Shape[int]
    num_query_groups: Shape[int]


class ModelPlan(ModelSizes):
    """The dense part, all sizes known."""

    vocab_size: Shape[int]


class PoolPlan(PoolSection):
    """The experts, their routers and owners."""

    layers_per_group: Shape[int]
    parallel_size: InferenceToo[Layout[int]]
    stages_per_group: InferenceToo[Layout[int]]
    router_init_std: Start[float]


class ParallelPlan(ParallelSection):
    """Degrees of parallelism, all of them numbers."""

    dp: InferenceToo[Layout[int]]


class RunPlan(RunSection):
    """Where a run keeps its files, and how long it may take."""

    watchdog_s: Io[float]


@dataclass(frozen=True)
class Outline:
    """A run on a number of processes, resolved but for the vocabulary.

    Batch, sequences, corpus and learning rate are those of one stage of the run: the one that is trained next, unless
    :meth:`at` was asked for another.
    """

    config: Config
    """What run directories and checkpoints record: the configuration with these sizes filled in."""
    model: ModelSizes
    pool: PoolPlan
    parallel: ParallelPlan
    data: DataSection
    optimizer: OptimizerSection
    zero: ZeroSettings
    """Of the file ``optimizer.deepspeed``."""
    train: TrainSection
    log: LogSection
    checkpoint: CheckpointSection
    run: RunPlan
    grid: RankGrid
    pools: PoolMap
    stages: RunStages
    """All of the run."""
    document_end: int | None = field(default=None, kw_only=True)
    """The token after which attention, positions and loss begin again; ``None``: they do not, or it is not known."""

    def at(self, step: int) -> Self:
        """Return the plan for a step: that of its stage."""
        stage = self.stages.at(step)
        model = self.model.model_copy(update={"sequence_length": stage.sequence_length})
        return replace(self, model=model, data=stage.data, optimizer=stage.optimizer, train=stage.train)

    def with_longest_sequences(self) -> Self:
        """Return the plan of the stage with the longest sequences, for which a model's positions have to reach."""
        return self.at(max(self.stages.each, key=lambda stage: stage.sequence_length).first_step)

    @property
    def num_microbatches(self) -> int:
        """Micro-batches of a step on every data-parallel replica."""
        return self.train.global_batch_size // (self.train.micro_batch_size * self.parallel.dp)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a step, of all ranks."""
        return self.train.global_batch_size * self.model.sequence_length

    def with_vocabulary(self, tokenizer_size: int | None = None) -> Plan:
        """Return the plan with the vocabulary of the configuration, else that of a tokenizer, padded.

        Args:
            tokenizer_size: tokens that the tokenizer knows; padded to a multiple of ``model.vocab_divisor``.

        Raises:
            ConfigError: neither is known, or the configuration's is too small for the tokenizer.
        """
        size, divisor = self.model.vocab_size, self.model.vocab_divisor
        if size is None:
            if tokenizer_size is None:
                raise ConfigError("model.vocab_size=null means that of the corpus's tokenizer; set it to a number")
            size = -(-tokenizer_size // divisor) * divisor
        if tokenizer_size is not None and size < tokenizer_size:
            raise ConfigError(
                f"model.vocab_size={size} must be at least the tokenizer's {tokenizer_size}; set it to null to have it "
                f"chosen"
            )
        filled = self.config.model.model_copy(update={"vocab_size": size})
        known = {name: value for name, value in vars(self).items() if name in self.__dataclass_fields__}
        known["config"] = self.config.model_copy(update={"model": filled})
        known["model"] = ModelPlan.model_validate(self.model.model_dump() | {"vocab_size": size})
        return Plan(**known)


@dataclass(frozen=True)
class Plan(Outline):
    """A run with no size left open: no ``None`` that means "to be chosen", no ``auto``."""

    model: ModelPlan

    def ending_documents_with(self, token: int) -> Plan:
        """Return the plan for text whose documents end with ``token``, if ``data.reset_at_documents`` asks for it."""
        return replace(self, document_end=token if self.data.reset_at_documents else None)
