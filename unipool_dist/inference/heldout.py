"""A multiple-choice task made from a corpus's own validation text: which of four passages continues this one?

Needs no data but the corpus. The wrong answers are real continuations of other passages of the same domain, equally
long: a model that knows only word frequencies is right one time in four, and length gives nothing away.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import numpy as np

from unipool_dist.data import Corpus
from unipool_dist.data.corpus_manifest import store_dtype
from unipool_dist.errors import DataError

CONTEXT_WORDS = 32
CONTINUATION_WORDS = 16
NUM_CHOICES = 4
PER_DOMAIN = 100
"""Questions asked of one domain, if it has so many passages."""
READ_TOKENS = 2_000_000
"""Tokens read of a domain's validation text: enough for the questions, and decoded in seconds."""
_WORD = re.compile(r"\s*\S+")  # with the white space before it, so that words joined are the text again


@dataclass(frozen=True)
class Question:
    """A question: ``choices[answer]`` is the continuation of ``context``."""

    domain: str
    context: str
    choices: list[str]
    answer: int


def held_out_questions(corpus: Corpus, seed: int = 0) -> list[Question]:
    """Return at most :data:`PER_DOMAIN` questions for each domain; the same for every run on this corpus.

    Raises:
        DataError: no domain has as many different passages as a question has choices.
    """
    questions = []
    for domain in corpus.domains:
        passages = _passages(corpus, domain)
        draw = random.Random(f"{seed}/{domain}")
        draw.shuffle(passages)
        continuations = list(dict.fromkeys(continuation for _, continuation in passages))
        for context, continuation in passages[:PER_DOMAIN]:
            others = [other for other in continuations if other != continuation]
            if len(others) < NUM_CHOICES - 1:  # a text that repeats itself
                continue
            wrong = draw.sample(others, NUM_CHOICES - 1)
            answer = draw.randrange(NUM_CHOICES)
            questions.append(Question(domain, context, [*wrong[:answer], continuation, *wrong[answer:]], answer))
    if not questions:
        raise DataError(
            f"the validation text of {corpus.path} has no domain with {NUM_CHOICES} different passages of "
            f"{CONTEXT_WORDS + CONTINUATION_WORDS} words in one document, which task heldout needs; prepare a larger "
            f"corpus or choose other tasks"
        )
    return questions


def _passages(corpus: Corpus, domain: str) -> list[tuple[str, str]]:
    """Return context and continuation of non-overlapping passages of the domain's validation documents."""
    size = CONTEXT_WORDS + CONTINUATION_WORDS
    passages = []
    for text in _documents(corpus, domain):
        words = _WORD.findall(text)
        for start in range(0, len(words) - size + 1, size):
            split, end = start + CONTEXT_WORDS, start + size
            passages.append(("".join(words[start:split]), "".join(words[split:end])))
    return passages


def _documents(corpus: Corpus, domain: str) -> list[str]:
    """Return the documents within the first :data:`READ_TOKENS`: a fair sample, as their order is by hash."""
    store = corpus.prefix(domain, "validation").with_suffix(".validation.bin")
    tokens = np.fromfile(store, dtype=store_dtype(corpus.vocab_size), count=READ_TOKENS)
    ends = np.flatnonzero(tokens == corpus.tokenizer.eod)
    if len(tokens) == READ_TOKENS and len(ends):
        tokens = tokens[: ends[-1] + 1]  # the last document may end in the middle of a word
    return [corpus.tokenizer.decode(ids.tolist()) for ids in np.split(tokens, ends + 1) if len(ids)]
