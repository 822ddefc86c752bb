"""Accuracy in multiple-choice tasks, through lm-eval, to which a run's model looks like any other.

Needs the optional package lm-eval (``pip install -e '.[eval]'`` in a checkout).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unipool_dist.base.progress_bars import Bar, Count, no_bar
from unipool_dist.data import Corpus, Tokenizer
from unipool_dist.errors import DataError, UnipoolError
from unipool_dist.inference.heldout import held_out_questions
from unipool_dist.inference.scoring import Request, Score
from unipool_dist.inference.task_data import HELD_OUT, PAPER_TASKS, read_rows

try:
    import lm_eval
    from datasets import Dataset
    from lm_eval.api import task as _lm_eval_task
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager
except ImportError as error:
    raise UnipoolError(
        f"--tasks needs the package lm-eval ({error}): `make setup` installs it, or pip install -e '.[eval]'"
    ) from None

Answer = Callable[[list[Request]], list[Score]]
_Bar = Callable[[int], AbstractContextManager[Count]]
"""``progress(total)``"""


@dataclass(frozen=True)
class Accuracy:
    """Shares of a task's questions answered right, with standard errors (``None`` for a single question).

    ``normalized`` divides the log-probability of every choice by its characters; ``None`` where lm-eval defines none.
    """

    questions: int
    plain: float
    plain_error: float | None
    normalized: float | None
    normalized_error: float | None


def accuracies(
    answer: Answer,
    corpus: Corpus,
    files: dict[str, list[Path]],
    names: Sequence[str],
    *,
    limit: int | None = None,
    at_once: int,
    progress: Bar = no_bar,
) -> dict[str, Accuracy]:
    """Measure zero-shot accuracy in every task of ``names``.

    Args:
        answer: scores requests; receives at most ``at_once`` at a time.
        files: data of the tasks that are not made from ``corpus``.
        limit: number of questions asked of each task, from the first on.
        progress: shows the requests of each task.

    Raises:
        DataError: a task's data is not what lm-eval expects of it.
        Exception: as ``answer`` raised it.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    _lm_eval_task.tqdm = partial(tqdm, disable=True)  # shows bars of its own, terminal or not
    manager = TaskManager(include_path=_task_folders(names), include_defaults=False)
    tasks = {name: _task(manager, name, corpus, files) for name in names}  # all, before the first is asked
    found = {}
    for name, task in tasks.items():
        model = _Model(answer, corpus.tokenizer, at_once, partial(progress, name))
        try:
            results = lm_eval.evaluate(model, manager.load([task]), limit=limit, bootstrap_iters=1, log_samples=False)
        except Exception as error:  # lm-eval raises anything at rows of another form
            if error is model.failure or name == HELD_OUT:
                raise
            raise _unusable(name, files[name], error) from error
        found[name] = _accuracy(results["results"][name], results["n-samples"][name]["effective"])
    return found


def _task_folders(names: Sequence[str]) -> list[str]:
    """Return the folders of lm-eval that define the tasks; indexing all of lm-eval takes several seconds."""
    top = Path(lm_eval.__file__).parent / "tasks"
    return sorted({str(top / PAPER_TASKS[name].folder) for name in names if name != HELD_OUT})


def _task(manager: TaskManager, name: str, corpus: Corpus, files: dict[str, list[Path]]) -> ConfigurableTask:
    """Return lm-eval's task, or ours, with rows from local files instead of a download."""
    rows = [vars(question) for question in held_out_questions(corpus)] if name == HELD_OUT else read_rows(files[name])
    definition: dict[str, Any] = {
        "task": name,
        "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
    }
    if name == HELD_OUT:
        return ConfigurableTask(config=definition | _HELD_OUT_PROMPT)
    if name == "lambada_openai":  # has perplexity too, whose error takes long to estimate
        definition["metric_list"] = [_metric("acc")]
    try:
        # lm-eval lets fields of its tasks be set in the definition of a group.
        return manager.load([{"group": "local", "task": [definition]}])["tasks"][name]
    except Exception as error:  # likewise
        raise _unusable(name, files[name], error) from error


def _unusable(name: str, files: Sequence[Path], error: Exception) -> DataError:
    """Return the error for what lm-eval raises at rows of another form.

    It raises at the first row when the task is made, at others when the question is asked.
    """
    return DataError(
        f"task {name}: lm-eval {lm_eval.__version__} cannot use the rows in {', '.join(map(str, files))} "
        f"({type(error).__name__}: {error}); they are to be those of {PAPER_TASKS[name].dataset}"
    )


def _accuracy(values: Mapping[str, Any], questions: int) -> Accuracy:
    def number(name: str) -> float | None:
        value = values.get(f"{name},none")
        return value if isinstance(value, float) else None  # lm-eval writes "N/A"

    plain = number("acc")
    assert plain is not None
    return Accuracy(questions, plain, number("acc_stderr"), number("acc_norm"), number("acc_norm_stderr"))


class _Model(TemplateLM):
    """A run's model as lm-eval sees it. An empty context is the end of a document."""

    def __init__(self, answer: Answer, tokenizer: Tokenizer, at_once: int, progress: _Bar) -> None:
        super().__init__()
        self._answer, self._tokenizer, self._at_once, self._progress = answer, tokenizer, at_once, progress
        self.failure: Exception | None = None
        """The error that ``answer`` raised: the task's rows are not at fault."""

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.eod

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return self._tokenizer.encode(string)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        """Score ``requests``: ((texts), tokens of the context, tokens of the continuation)."""
        wanted = [Request(context, continuation) for _, context, continuation in requests]
        # Answers are longest first within a call; sorted before, calls are of equal lengths too.
        order = sorted(range(len(wanted)), key=lambda i: -len(wanted[i].context) - len(wanted[i].continuation))
        answers: dict[int, Score] = {}
        with self._progress(len(order)) as count:
            for start in range(0, len(order), self._at_once):
                part = order[start : start + self._at_once]
                answers |= zip(part, self._scores([wanted[i] for i in part]), strict=True)
                count(len(part))
        return [(answers[i].logprob, answers[i].greedy) for i in range(len(wanted))]

    def _scores(self, requests: list[Request]) -> list[Score]:
        try:
            return self._answer(requests)
        except Exception as error:  # kept, to tell it from what lm-eval raises at the rows
            self.failure = error
            raise

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError("no task here measures the likelihood of whole documents")

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError("no task here generates text")


def _metric(name: str) -> dict[str, Any]:
    return {"metric": name, "aggregation": "mean", "higher_is_better": True}


_HELD_OUT_PROMPT = {
    "output_type": "multiple_choice",
    "doc_to_text": "context",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "target_delimiter": "",  # the choices begin with their white space
    "metric_list": [_metric("acc"), _metric("acc_norm")],
}
