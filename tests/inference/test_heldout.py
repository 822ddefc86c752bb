"""The task made from validation text asks what it says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.using import complete
from unipool_dist.data import Corpus
from unipool_dist.errors import DataError
from unipool_dist.inference import heldout
from unipool_dist.inference.heldout import CONTEXT_WORDS, CONTINUATION_WORDS, held_out_questions


def test_the_answer_continues_the_context_in_the_validation_text(tiny_corpus: Path, tmp_path: Path) -> None:
    corpus = Corpus.open(tiny_corpus)
    source = {name: (tiny_corpus.parent / f"{name}.txt").read_text() for name in corpus.domains}
    questions = held_out_questions(corpus)
    assert Counter(question.domain for question in questions).keys() == corpus.domains.keys()
    for question in questions:
        assert question.context + question.choices[question.answer] in source[question.domain]
        assert len(question.context.split()) == CONTEXT_WORDS
        assert [len(choice.split()) for choice in question.choices] == [CONTINUATION_WORDS] * 4
        assert len(set(question.choices)) == 4
    answers = Counter(question.answer for question in questions)
    assert answers.keys() == {0, 1, 2, 3} and max(answers.values()) < len(questions) / 2


def test_the_questions_are_the_same_every_time(tiny_corpus: Path) -> None:
    corpus = Corpus.open(tiny_corpus)
    assert held_out_questions(corpus) == held_out_questions(corpus) != held_out_questions(corpus, seed=1)


def test_a_corpus_with_too_little_text_is_refused(tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heldout, "CONTEXT_WORDS", 10_000)
    with pytest.raises(DataError, match="prepare a larger corpus or choose other tasks"):
        held_out_questions(Corpus.open(tiny_corpus))


def test_white_space_is_kept(tmp_path: Path) -> None:
    lines = [f"def f{i}(x):\n    if x > {i}:\n        return x  +  {i} * {i + 7}" for i in range(400)]
    (tmp_path / "code.txt").write_text("\n\n".join(lines))
    complete("data", "prepare", tmp_path / "out", f"--source=code={tmp_path / 'code.txt'}", "--vocab-size=300")
    questions = held_out_questions(Corpus.open(tmp_path / "out"))
    assert any("\n        return" in question.choices[question.answer] for question in questions)
