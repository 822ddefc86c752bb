"""The task made from validation text asks what it says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.using import complete
from unipool_dist.data import Corpus
from unipool_dist.errors import DataError
from unipool_dist.inference import heldout
from unipool_dist.inference.heldout import CONTEXT_WORDS, CONTINUATION_WORDS, _documents, held_out_questions


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


def test_of_a_large_corpus_only_the_beginning_is_read(tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus.open(tiny_corpus)
    assert heldout.READ_TOKENS > 400_000, "small corpora have all their passages"
    whole = {domain: _documents(corpus, domain) for domain in corpus.domains}
    assert all(len(documents) > 4 for documents in whole.values())
    monkeypatch.setattr(heldout, "READ_TOKENS", 3000)
    for domain, documents in whole.items():
        begun = _documents(corpus, domain)
        assert 1 < len(begun) < len(documents) and begun == documents[: len(begun)], "whole documents"
        assert sum(len(corpus.tokenizer.encode(text)) for text in begun) < 3000
    monkeypatch.setattr(heldout, "READ_TOKENS", 40)  # within the first document
    assert [len(_documents(corpus, domain)) for domain in corpus.domains] == [1, 1]


def test_choices_differ_in_a_text_that_repeats_itself(tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passages = [(str(i), continuation) for i, continuation in enumerate("xxxxxxyzw")]
    monkeypatch.setattr(heldout, "_passages", lambda corpus, domain: list(passages))
    questions = held_out_questions(Corpus.open(tiny_corpus))
    assert len(questions) == 2 * len(passages)
    for question in questions:
        assert sorted(question.choices) == ["w", "x", "y", "z"]
        assert (question.context, question.choices[question.answer]) in passages


def test_a_text_with_too_few_different_passages_has_no_questions(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, enough = [(str(i), c) for i, c in enumerate("xxxyz")], [(str(i), c) for i, c in enumerate("wxyz")]
    monkeypatch.setattr(heldout, "_passages", lambda corpus, domain: list(few if domain == "prose" else enough))
    assert {question.domain for question in held_out_questions(Corpus.open(tiny_corpus))} == {"sums"}
    monkeypatch.setattr(heldout, "_passages", lambda corpus, domain: list(few))
    with pytest.raises(DataError, match="no domain with 4 different passages"):
        held_out_questions(Corpus.open(tiny_corpus))


@pytest.mark.real_programs
def test_white_space_is_kept(tmp_path: Path) -> None:
    lines = [f"def f{i}(x):\n    if x > {i}:\n        return x  +  {i} * {i + 7}" for i in range(400)]
    (tmp_path / "code.txt").write_text("\n\n".join(lines))
    complete("data", "prepare", tmp_path / "out", f"--source=code={tmp_path / 'code.txt'}", "--vocab-size=300")
    questions = held_out_questions(Corpus.open(tmp_path / "out"))
    assert any("\n        return" in question.choices[question.answer] for question in questions)
