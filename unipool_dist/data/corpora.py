"""The corpora of a run: one for each of its stages, often the same one for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from unipool_dist.config.plan import Outline
from unipool_dist.config.run_stages import RunStage, RunStages
from unipool_dist.data.corpus import Corpus
from unipool_dist.errors import DataError


@dataclass(frozen=True)
class Corpora:
    """Opened corpora of the stages from some step on, all with one tokenizer."""

    stages: RunStages
    by_path: Mapping[str, Corpus]

    @classmethod
    def open(cls, plan: Outline, *, verify: Literal["size", "hash"] = "size", from_step: int = 1) -> Corpora:
        """Open those of the stages that train from ``from_step`` on, each once. Collectives: none.

        Raises:
            DataError: one is missing or damaged, has another tokenizer than the first, or lacks a domain that its stage
                has a weight for.
        """
        opened: dict[str, Corpus] = {}
        now = plan.stages.at(from_step)
        for stage in plan.stages.each:
            if now.first_step <= stage.first_step <= max(plan.train.steps, now.first_step):
                with _naming(stage):
                    path = stage.data.path
                    corpus = opened[path] = opened.get(path) or Corpus.open(path, verify=verify)
                    for domain in stage.data.weights or {}:
                        corpus.domain(domain)
                    first = next(iter(opened.values()))
                    if corpus.tokenizer_hash != first.tokenizer_hash:
                        raise DataError(
                            f"the corpus at data.path={path} has another tokenizer than the one at "
                            f"{first.path}, and all stages of a run need the same: prepare it with that one's"
                        )
        return cls(plan.stages, opened)

    def at(self, step: int) -> Corpus:
        """Return the corpus of the stage of a step."""
        return self.by_path[self.stages.at(step).data.path]

    @property
    def any(self) -> Corpus:
        """One of them, for what they have in common: the tokenizer and its vocabulary."""
        return next(iter(self.by_path.values()))


@contextmanager
def _naming(stage: RunStage) -> Iterator[None]:
    """Name the stage in errors of the body, if it is not the first."""
    try:
        yield
    except DataError as error:
        if stage.first_step == 1:
            raise
        raise DataError(f"the stage from step {stage.first_step}: {error}") from None
