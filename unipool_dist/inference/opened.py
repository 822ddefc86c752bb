"""A run's model on this rank, ready for forward passes: no optimizer states, and the run's lock is not taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unipool_dist.checkpoint.compatibility import shape_differences
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.resume import DamagedError, Found, find_checkpoint
from unipool_dist.checkpoint.weights import load_weights
from unipool_dist.comm.agreement import failing_together
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.groups import ParallelGroups, process_groups
from unipool_dist.config.plan import Plan
from unipool_dist.config.run_stages import RunStages
from unipool_dist.config.staging import config_at
from unipool_dist.data import Corpus
from unipool_dist.data.tokenizer_alone import TokenizerAlone, Vocabulary
from unipool_dist.engine.pipeline import Pipeline
from unipool_dist.errors import CheckpointError, DataError
from unipool_dist.model.assembly import PooledModel, build_model


@dataclass(frozen=True)
class OpenedRun:
    """A rank's share of an opened run: what it needs to use the model together with the other ranks."""

    run_dir: Path
    step: int
    tokens: int
    """On which this run had trained the model."""
    is_imported: bool
    """The model is as it was exported, and this run has not trained it."""
    plan: Plan
    """The run's, on the present layout."""
    vocabulary: Vocabulary
    """Of the model's tokens: the corpus, or a tokenizer alone."""
    groups: ParallelGroups
    model: PooledModel
    pipeline: Pipeline
    notes: tuple[str, ...]
    """What the user should know of the checkpoint and the corpus."""

    @property
    def corpus(self) -> Corpus:
        """The corpus at ``data.path``.

        Raises:
            DataError: the run was opened with a tokenizer instead.
        """
        if not isinstance(self.vocabulary, Corpus):
            raise DataError(
                "the run was opened with a tokenizer instead of its corpus, which is enough to generate text and to "
                "score it; for anything else open it without"
            )
        return self.vocabulary

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which talks to the user."""
        return self.groups.rank == 0


@contextmanager
def opened_run(
    run_dir: Path, plan: Plan, environment: Environment, step: int | None, tokenizer: Path | None = None
) -> Iterator[OpenedRun]:
    """Open the model of the newest whole checkpoint of the run in ``run_dir``, or of the one of ``step``.

    Args:
        plan: from :func:`unipool_dist.inference.layout.inference_plan`.
        tokenizer: where the run's tokenizer is, as for :func:`unipool_dist.data.given_tokenizer.given_tokenizer`; then
            no corpus is opened.

    Collectives: those of :func:`unipool_dist.comm.groups.process_groups`; over ``storage`` agreement on the
    corpus, then on a checkpoint, then those of :func:`unipool_dist.checkpoint.weights.load_weights`.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or of another model than the run's configuration.
        DataError: the corpus or the tokenizer is missing, or it is not the run's.
    """
    with process_groups(plan, environment) as groups:
        with failing_together("opening the corpus", groups.storage):
            vocabulary = _open_corpus(plan) if tokenizer is None else TokenizerAlone.open(tokenizer)
        plan = plan.ending_documents_with(vocabulary.document_end)
        model = build_model(plan, groups, draw=False)
        found = _load(run_dir, plan, vocabulary, groups, model, step)
        yield OpenedRun(
            run_dir=run_dir,
            step=found.step,
            tokens=RunStages.of(found.config).tokens(found.step),
            is_imported=found.progress.data.content_hash is None,
            plan=plan,
            vocabulary=vocabulary,
            groups=groups,
            model=model,
            pipeline=Pipeline(plan, groups, model),
            notes=tuple(_notes(found, vocabulary, plan.train.steps)),
        )


def _open_corpus(plan: Plan) -> Corpus:
    try:
        return Corpus.open(plan.data.path, verify="size")
    except DataError as error:
        raise DataError(
            f"{error}; or, if the run's corpus is elsewhere now, say where: data.path=DIRECTORY; to "
            f"generate text its tokenizer is enough: --tokenizer PATH"
        ) from None


def _load(
    run_dir: Path, plan: Plan, vocabulary: Vocabulary, groups: ParallelGroups, model: PooledModel, step: int | None
) -> Found:
    """Load the weights. Without ``step``, skip checkpoints that are damaged or that the run deletes meanwhile."""
    damaged: dict[int, str] = {}
    while True:
        found = find_checkpoint(
            CheckpointDirectory(run_dir),
            groups.storage,
            from_step=step,
            verify=plan.checkpoint.verify,
            damaged=damaged,
        )
        if found is None:
            raise CheckpointError(f"{run_dir} has no checkpoint")
        _check(found, plan, vocabulary)
        try:
            load_weights(found, model, groups)
            return found
        except DamagedError as error:
            if step is not None:
                raise
            damaged[error.step] = error.fault


def _check(found: Found, plan: Plan, vocabulary: Vocabulary) -> None:
    differences = shape_differences(config_at(found.config, found.step), plan.config)
    if differences:
        raise CheckpointError(
            f"{found.folder} is of another model than the run's config.yaml:\n  "
            + "\n  ".join(differences)
            + "\nRestore config.yaml from the checkpoint's own"
        )
    tokenizer = found.progress.data.tokenizer_hash
    if isinstance(vocabulary, TokenizerAlone):
        vocabulary.check(tokenizer, plan.model.vocab_size)
    elif tokenizer is not None and tokenizer != vocabulary.tokenizer_hash:
        raise DataError(
            f"the corpus at data.path={plan.data.path} has another tokenizer than the run's; say where a corpus "
            f"with the run's is: data.path=DIRECTORY"
        )


def _notes(found: Found, vocabulary: Vocabulary, steps: int) -> Iterator[str]:
    imported = found.progress.data.content_hash is None
    for step, fault in found.damaged.items():
        yield f"warning: the checkpoint of step {step} is damaged and passed over: {fault}"
    if imported:
        yield "note: the model is an imported one, as it was exported; this run has not trained it"
    elif found.step < steps:
        yield f"note: the model is that of step {found.step} of {steps}; it is not trained to the end"
    if imported or not isinstance(vocabulary, Corpus):
        return
    if found.progress.data.content_hash != vocabulary.content_hash:
        yield f"note: the corpus at {vocabulary.path} is not the one that the run was trained on"
