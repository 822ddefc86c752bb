"""``unipool-dist eval``: loss of a run's model on held-out text, and its accuracy in tasks."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from unipool_dist.base.console import say
from unipool_dist.base.printable import aligned
from unipool_dist.base.progress_bars import count_bar
from unipool_dist.cli.inference import Use, chosen_batches, on_every_rank, sequences_option, use_options
from unipool_dist.cli.option_types import COUNT
from unipool_dist.cli.source_options import locations
from unipool_dist.data.sources import Source, local_source

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from unipool_dist.data import Rows
    from unipool_dist.inference.harness import Accuracy
    from unipool_dist.inference.opened import OpenedRun
    from unipool_dist.inference.validation import Loss


@click.command()
@sequences_option
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="NAME=LOCATION",
    help="Evaluate this text instead of the corpus's, with the run's tokenizer; as for data prepare. Repeatable.",
)
@click.option("--text-field", default="text", show_default=True, help="Field of the rows of --source.")
@click.option("--skip-unknown", is_flag=True, help="Pass over files in the folders of --source that cannot be read.")
@click.option(
    "--tasks",
    metavar="NAME,...",
    help="Also zero-shot accuracy in these: heldout, arc_easy, arc_challenge, piqa, hellaswag, winogrande, "
    "lambada_openai, race; `paper` for all but the first. Needs lm-eval.",
)
@click.option(
    "--task-data",
    type=click.Path(path_type=Path),
    help="Directory with the data of tasks, one folder each; heldout needs none.",
)
@click.option("--task-limit", type=COUNT, metavar="N", help="Ask only the first N questions of a task.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@use_options
def eval(
    sequences: int | Literal["all"] | None,
    sources: tuple[str, ...],
    text_field: str,
    skip_unknown: bool,
    tasks: str | None,
    task_data: Path | None,
    task_limit: int | None,
    as_json: bool,
    **use: Any,
) -> None:
    """Evaluate the model of RUN: validation loss, and accuracy in tasks.

    The loss of every domain is in nats per token; perplexity is exp(loss), bits per byte are loss / ln 2 over the
    bytes that a token of the domain's validation text has in the mean. "all" is over all domains, every token, or
    byte, counting the same.

    --source evaluates any other text: all of it, or the first --sequences. Nothing of it is kept.

    Task heldout asks which of four passages continues a passage of the corpus's validation text. The data of the
    others is read from --task-data, as docs/evaluation.md says; nothing is downloaded.
    """
    wanted = _Tasks(tasks, task_data, task_limit) if tasks is not None else None
    texts = {
        name: partial(local_source, name, where, text_field, skip_unknown=skip_unknown)
        for name, where in locations("--source", sources).items()
    }

    def work(run: OpenedRun) -> None:
        losses, total = _losses_of(run, texts, sequences) if texts else _losses(run, sequences)
        accuracies = wanted.run(run) if wanted is not None else {}
        if run.is_main:
            assert accuracies is not None
            show = _document if as_json else _text
            say(show(run, losses, total, accuracies))

    on_every_rank(Use(**use), work)


class _Tasks:
    """The tasks asked for; refuses at once what cannot be run."""

    def __init__(self, names: str, folder: Path | None, limit: int | None) -> None:
        from unipool_dist.inference import harness  # noqa: F401  # is lm-eval there?
        from unipool_dist.inference.task_data import data_files, task_names

        self._names = task_names(names)
        self._files = data_files(self._names, folder)
        self._limit = limit

    def run(self, run: OpenedRun) -> dict[str, Accuracy] | None:
        """Return accuracy by task on rank 0, ``None`` on the others, which answer its requests."""
        from unipool_dist.inference.driving import driven_by_rank_0
        from unipool_dist.inference.harness import accuracies
        from unipool_dist.inference.scoring import Scorer

        scorer = Scorer(run)
        drive = partial(
            accuracies,
            corpus=run.corpus,
            files=self._files,
            names=self._names,
            limit=self._limit,
            at_once=scorer.at_once,
            progress=partial(count_bar, unit="choices", show=run.is_main),
        )
        return driven_by_rank_0(run.groups.storage, scorer, drive)


def _losses(run: OpenedRun, sequences: int | Literal["all"] | None) -> tuple[dict[str, Loss], Loss]:
    """Return the losses by domain, and over all."""
    return _measured(run, chosen_batches(run, sequences), None)


def _losses_of(
    run: OpenedRun, sources: Mapping[str, Callable[[], Source]], sequences: int | Literal["all"] | None
) -> tuple[dict[str, Loss], Loss]:
    """Return the losses of texts outside the corpus, by name, and over all."""
    from unipool_dist.inference.other_text import other_text

    count = sequences if isinstance(sequences, int) else None
    texts = other_text(run, sources, count)
    for note in (note for text in texts.values() for note in text.notes):
        say(note, err=True)
    batches = {name: text.batch for name, text in texts.items()}
    return _measured(run, batches, {name: text.bytes_per_token for name, text in texts.items()})


def _measured(
    run: OpenedRun, batches: Mapping[str, Rows], bytes_per_token: dict[str, float] | None
) -> tuple[dict[str, Loss], Loss]:
    from unipool_dist.inference.validation import together, validation_losses

    with count_bar("validation", sum(map(len, batches.values())), "sequences", show=run.is_main) as count:
        losses = validation_losses(run, batches, count, bytes_per_token=bytes_per_token)
    return losses, together(losses.values())


def _text(run: OpenedRun, losses: dict[str, Loss], total: Loss, accuracies: dict[str, Accuracy]) -> str:
    rows: list[tuple[str, ...]] = [("domain", "tokens", "loss", "perplexity", "bits/byte")]
    rows += [
        (name, f"{loss.tokens:,}", f"{loss.nats_per_token:.4f}", f"{loss.perplexity:.3f}", f"{loss.bits_per_byte:.4f}")
        for name, loss in [*losses.items(), ("all", total)]
    ]
    lines = [
        f"{run.run_dir}, "
        + ("as imported" if run.is_imported else f"step {run.step}, trained on {run.tokens:,} tokens"),
        *aligned(rows, right=range(1, 5)),
    ]
    if accuracies:
        lines += ["", *aligned(_task_rows(accuracies), right=range(1, 4))]
    return "\n".join(lines)


def _task_rows(accuracies: dict[str, Accuracy]) -> list[tuple[str, ...]]:
    """Return rows for the paper's tasks and their mean, then heldout, which is in no mean."""
    from unipool_dist.inference.task_data import PAPER_TASKS

    def row(name: str) -> tuple[str, ...]:
        found = accuracies[name]
        plain, normalized = _percent(found.plain, found.plain_error), _percent(found.normalized, found.normalized_error)
        return name, f"{found.questions:,}", plain, normalized

    papers = [name for name in accuracies if name in PAPER_TASKS]
    rows: list[tuple[str, ...]] = [("task", "questions", "accuracy %", "normalized %"), *map(row, papers)]
    if len(papers) > 1:
        which = "the paper's 7" if len(papers) == len(PAPER_TASKS) else f"these {len(papers)}"
        rows.append(
            (f"mean of {which}", "", _percent(sum(accuracies[n].plain for n in papers) / len(papers), None), "")
        )
    return [*rows, *(row(name) for name in accuracies if name not in PAPER_TASKS)]


def _percent(share: float | None, error: float | None) -> str:
    """Format a share, with its standard error if there is one."""
    if share is None:
        return "-"
    return f"{100 * share:.2f}" + ("" if error is None else f" ± {100 * error:.2f}")


def _document(run: OpenedRun, losses: dict[str, Loss], total: Loss, accuracies: dict[str, Accuracy]) -> str:
    def record(loss: Loss) -> dict[str, float]:
        return {
            "tokens": loss.tokens,
            "loss": loss.nats_per_token,
            "perplexity": loss.perplexity,
            "bits_per_byte": loss.bits_per_byte,
        }

    document = {
        "run": str(run.run_dir),
        "step": run.step,
        "tokens": run.tokens,
        "domains": {name: record(loss) for name, loss in losses.items()},
        "all": record(total),
        "tasks": {name: asdict(accuracy) for name, accuracy in accuracies.items()},
    }
    return json.dumps(document, indent=1)
