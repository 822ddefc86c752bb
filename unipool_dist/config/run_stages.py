"""The stages of a run, not of the pipeline: batch, sequences, corpus and learning rate, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from unipool_dist.config.sections import Config, DataSection, OptimizerSection, TrainSection
from unipool_dist.config.staging import stage_configs


@dataclass(frozen=True)
class RunStage:
    """Consecutive steps with one batch size, sequence length, corpus, blend and learning rate."""

    first_step: int
    sequence_length: int
    data: DataSection
    optimizer: OptimizerSection
    train: TrainSection

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a step, of all ranks."""
        return self.train.global_batch_size * self.sequence_length

    def draws_like(self, other: RunStage) -> bool:
        """Return whether the samples of both are drawn in one way: length, corpus and blend are the same."""
        mine, others = ((s.sequence_length, s.data.path, s.data.weights) for s in (self, other))
        return mine == others


@dataclass(frozen=True)
class RunStages:
    """All stages of a run, in order; a run whose configuration has no ``stages`` has one."""

    each: tuple[RunStage, ...]

    @classmethod
    def of(cls, config: Config) -> RunStages:
        """Return the stages of a configuration."""
        every = stage_configs(config)
        return cls(tuple(RunStage(n, c.model.sequence_length, c.data, c.optimizer, c.train) for n, c in every))

    def at(self, step: int) -> RunStage:
        """Return the stage of a step; a step before the first is in the first stage."""
        return next((stage for stage in reversed(self.each) if stage.first_step <= step), self.each[0])

    def of_sample(self, sample: int) -> RunStage:
        """Return the stage that trains on ``sample``, counted from 0 over the whole run."""
        return next(stage for stage in reversed(self.each) if self.samples(stage.first_step - 1) <= sample)

    def samples(self, step: int) -> int:
        """Return how many sequences the run has trained on after ``step`` steps, all ranks together."""
        return sum(count * stage.train.global_batch_size for stage, count in self._steps(step))

    def tokens(self, step: int) -> int:
        """Return how many tokens the run has trained on after ``step`` steps, all ranks together."""
        return sum(count * stage.tokens_per_step for stage, count in self._steps(step))

    def _steps(self, step: int) -> Iterator[tuple[RunStage, int]]:
        """Yield every stage with the number of its steps that are done after ``step``."""
        ends = [stage.first_step - 1 for stage in self.each[1:]]
        for stage, end in zip(self.each, [*ends, step], strict=True):
            yield stage, max(0, min(end, step) - stage.first_step + 1)
