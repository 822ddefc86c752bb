"""lm-eval with a run's model: the paper's tasks on local data, and the task made from held-out text."""

from __future__ import annotations

import json
import math
import traceback
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="`make setup` installs it")

from tests.support.using import LAYOUTS, complete, refused, with_run
from tests.support.workers import Workers, free_port
from unipool_dist.cli.eval import _task_rows
from unipool_dist.data import Corpus
from unipool_dist.errors import DataError
from unipool_dist.inference.driving import driven_by_rank_0
from unipool_dist.inference.harness import Accuracy, accuracies
from unipool_dist.inference.heldout import held_out_questions
from unipool_dist.inference.opened import OpenedRun
from unipool_dist.inference.scoring import Request, Score, Scorer
from unipool_dist.inference.task_data import PAPER_TASKS

# Two questions of each task in the form in which the hub has them, with what a model must choose to be right, and the
# prompt it must be given.
ROWS: dict[str, list[dict[str, Any]]] = {
    "arc_easy": [
        {"question": "Hot?", "choices": {"text": ["ice", "fire"], "label": ["A", "B"]}, "answerKey": "B"},
        {"question": "Cold?", "choices": {"text": ["ice", "fire"], "label": ["1", "2"]}, "answerKey": "1"},
    ],
    "arc_challenge": [
        {"question": "Wet?", "choices": {"text": ["sea", "sun", "sand"], "label": ["A", "B", "C"]}, "answerKey": "A"},
        {"question": "Dry?", "choices": {"text": ["sea", "lake", "sand"], "label": ["A", "B", "C"]}, "answerKey": "C"},
    ],
    "piqa": [
        {"goal": "Open a door", "sol1": "pull", "sol2": "swim", "label": 0},
        {"goal": "Eat", "sol1": "sleep", "sol2": "chew", "label": 1},
    ],
    "hellaswag": [
        {"activity_label": a, "ctx_a": "He runs.", "ctx_b": "then he", "endings": ["rests.", "flies."], "label": "0"}
        for a in ("Running", "Sport")
    ],
    "winogrande": [
        {"sentence": "The cup fell off the shelf, so _ broke.", "option1": "the cup", "option2": "it", "answer": "1"},
        {"sentence": "Ann met Bea, and _ smiled.", "option1": "Ann", "option2": "Bea", "answer": "2"},
    ],
    "lambada_openai": [{"text": "the fox jumps over the dog"}, {"text": "a stone near the river"}],
    "race": [
        {"article": text, "problems": str([{"question": "Who?", "answer": letter, "options": options}])}
        for text, letter, options in (
            ("Tom ran.", "C", ["a", "b", "Tom", "d"]),
            ("Sue sat.", "A", ["Sue", "b", "c", "d"]),
        )
    ],
}
RIGHT = {
    "arc_easy": [("Question: Hot?\nAnswer:", " fire"), ("Question: Cold?\nAnswer:", " ice")],
    "arc_challenge": [("Question: Wet?\nAnswer:", " sea"), ("Question: Dry?\nAnswer:", " sand")],
    "piqa": [("Question: Open a door\nAnswer:", " pull"), ("Question: Eat\nAnswer:", " chew")],
    "hellaswag": [(f"{a}: He runs. Then he", " rests.") for a in ("Running", "Sport")],
    "winogrande": [
        ("The cup fell off the shelf, so the cup", " broke."),
        ("Ann met Bea, and Bea", " smiled."),
    ],
    "lambada_openai": [("the fox jumps over the", " dog"), ("a stone near the", " river")],
    "race": [("Article: Tom ran.\n\nWho?", " Tom"), ("Article: Sue sat.\n\nWho?", " Sue")],
}


@pytest.fixture
def task_data(tmp_path: Path) -> Path:
    """The seven tasks in a folder."""
    for name, rows in ROWS.items():
        (tmp_path / name).mkdir()
        path = tmp_path / name / f"{PAPER_TASKS[name].split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def _files(folder: Path) -> dict[str, list[Path]]:
    return {name: list((folder / name).iterdir()) for name in ROWS}


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_prompts_of_the_paper_tasks(name: str, tiny_corpus: Path, task_data: Path) -> None:
    """A model that finds one text of all likely is right in exactly this question."""
    corpus = Corpus.open(tiny_corpus)
    encode = corpus.tokenizer.encode
    for context, choice in RIGHT[name]:
        wanted = encode(context + choice)

        def answer(requests: list[Request], wanted: list[int] = wanted) -> list[Score]:
            right = [request.context + request.continuation == wanted for request in requests]
            assert any(right) or len(requests) < 4
            return [Score(-1.0 if each else -99.0, each) for each in right]

        found = accuracies(answer, corpus, _files(task_data), [name], at_once=64)
        assert found[name].questions == 2 and found[name].plain in (0.5, 1.0)


def test_accuracy_counts_the_likeliest_choice(tiny_corpus: Path) -> None:
    corpus = Corpus.open(tiny_corpus)
    questions = held_out_questions(corpus)
    texts = [(q.context, choice, i == q.answer) for q in questions for i, choice in enumerate(q.choices)]
    right = {tuple(corpus.tokenizer.encode(context + choice)) for context, choice, true in texts if true}

    def oracle(requests: list[Request]) -> list[Score]:
        return [Score(0.0 if (*r.context, *r.continuation) in right else -1.0, False) for r in requests]

    def liar(requests: list[Request]) -> list[Score]:
        return [Score(-1.0 - score.logprob, False) for score in oracle(requests)]

    asked = []

    def shortest(requests: list[Request]) -> list[Score]:
        asked.append(len(requests))
        return [Score(-float(len(r.continuation)), False) for r in requests]

    assert _heldout(oracle, corpus).plain == 1.0 and _heldout(oracle, corpus).plain_error == 0.0
    assert _heldout(liar, corpus).plain == 0.0
    by_chance = _heldout(shortest, corpus)
    assert by_chance.questions == len(questions) and by_chance.plain_error is not None
    assert by_chance.plain == pytest.approx(0.25, abs=4 * by_chance.plain_error)
    share = by_chance.plain
    assert by_chance.plain_error == pytest.approx(math.sqrt(share * (1 - share) / (len(questions) - 1)), rel=1e-6)
    assert sum(asked) == 4 * len(questions) and max(asked) == 10


def _heldout(answer: Any, corpus: Corpus) -> Accuracy:
    return accuracies(answer, corpus, {}, ["heldout"], at_once=10)["heldout"]


@pytest.mark.parametrize("layout", ["pp2", "tp2", "pp2-dp2-q2"])
def test_accuracy_does_not_depend_on_the_layout(workers: Workers, small_run: Path, layout: str) -> None:
    world_size, overrides = LAYOUTS[layout]
    (one,) = workers.run(with_run, 1, small_run, (), 0, _ask)
    first, *others = workers.run(with_run, world_size, small_run, overrides, free_port(), _ask)
    assert isinstance(one["heldout"], Accuracy) and first == one
    assert others == [None] * (world_size - 1), "only rank 0 asks"


def _ask(run: OpenedRun) -> dict[str, Accuracy] | None:
    scorer = Scorer(run)
    return driven_by_rank_0(
        run.groups.storage,
        scorer,
        lambda call: accuracies(call, run.corpus, {}, ["heldout"], limit=20, at_once=scorer.at_once),
    )


@pytest.mark.real_programs
def test_the_command_reports_every_task(small_run: Path, task_data: Path) -> None:
    arguments = ("eval", small_run, "--tasks=heldout,paper", "--task-data", task_data, "--nproc=2")
    said, _ = complete(*arguments, "--task-limit=8", "--json")
    tasks = json.loads(said)["tasks"]
    assert list(tasks) == ["heldout", *PAPER_TASKS]
    assert [found["questions"] for found in tasks.values()] == [8, *[2] * 7]
    assert tasks["race"]["normalized"] is None and tasks["piqa"]["normalized"] is not None


def test_the_mean_is_that_of_the_papers_tasks() -> None:
    def rows(*names: str) -> list[tuple[str, str]]:
        # heldout is right 90 % of the time, the others 10 %, 20 %, ...
        shares = {name: 0.9 if name == "heldout" else 0.1 * i for i, name in enumerate(("heldout", *PAPER_TASKS))}
        return [
            (name, share)
            for name, _, share, _ in _task_rows({n: Accuracy(9, shares[n], None, None, None) for n in names})
        ][1:]

    seven = [(name, f"{10 * i:.2f}") for i, name in enumerate(PAPER_TASKS, start=1)]
    assert rows("heldout", *PAPER_TASKS) == [*seven, ("mean of the paper's 7", "40.00"), ("heldout", "90.00")]
    assert rows("piqa", "heldout", "race") == [
        ("piqa", "30.00"), ("race", "70.00"), ("mean of these 2", "50.00"), ("heldout", "90.00")
    ]  # fmt: skip
    assert rows("heldout") == [("heldout", "90.00")]


def test_rows_of_another_form_are_refused(tiny_corpus: Path, task_data: Path) -> None:
    (task_data / "piqa" / "validation.jsonl").write_text('{"text": "no question"}\n')
    with pytest.raises(DataError, match=r"task piqa: lm-eval [\d.]+ cannot use the rows in .*those of baber/piqa"):
        accuracies(lambda requests: [], Corpus.open(tiny_corpus), _files(task_data), ["piqa"], at_once=4)


def test_a_later_row_of_another_form_is_refused_too(tiny_corpus: Path, task_data: Path) -> None:
    """lm-eval looks at the first when the task is made, at the others when it is asked."""
    good, odd = json.dumps(ROWS["arc_easy"][0]), json.dumps(ROWS["arc_easy"][1] | {"answerKey": "Z"})
    (task_data / "arc_easy" / "test.jsonl").write_text(f"{good}\n{odd}\n")
    with pytest.raises(
        DataError, match=r"task arc_easy: lm-eval [\d.]+ cannot use the rows in .*allenai/ai2_arc"
    ) as error:
        accuracies(_all_alike, Corpus.open(tiny_corpus), _files(task_data), ["piqa", "arc_easy"], at_once=4)
    cause = error.value.__cause__
    assert cause is not None and "evaluate" in {each.name for each in traceback.extract_tb(cause.__traceback__)}


def _all_alike(requests: list[Request]) -> list[Score]:
    return [Score(-1.0, False) for _ in requests]


def test_an_error_of_the_model_is_not_put_down_to_the_rows(tiny_corpus: Path, task_data: Path) -> None:
    def broken(requests: list[Request]) -> list[Score]:
        raise RuntimeError("gloo: connection closed by peer")

    with pytest.raises(RuntimeError, match="connection closed by peer"):
        accuracies(broken, Corpus.open(tiny_corpus), _files(task_data), ["piqa"], at_once=4)


def test_what_is_missing_is_said_before_anything_starts(small_run: Path, tmp_path: Path) -> None:
    assert "there is no task sums" in refused("eval", small_run, "--tasks=sums")
    assert "piqa: say where the data is" in refused("eval", small_run, "--tasks=piqa", "--nproc", 2)
    assert "piqa: no validation*.jsonl" in refused("eval", small_run, "--tasks=piqa", "--task-data", tmp_path)
