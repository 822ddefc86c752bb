"""Losses, scores of continuations and generated tokens are those of one process, on any layout."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.using import LAYOUTS, validation_of_training, with_run
from tests.support.workers import Workers, free_port
from unipool_dist.inference.generation import continuation
from unipool_dist.inference.opened import OpenedRun
from unipool_dist.inference.sampler import Sampling
from unipool_dist.inference.scoring import Request, Scorer
from unipool_dist.inference.validation import validation_batches, validation_losses

PROMPT = "the quick brown fox"
# Of many lengths, some longer than the 32 tokens of a sequence, and more than one pass takes.
REQUESTS = [(PROMPT * (1 + i % 7), " jumps over near lazy river"[: 2 + i % 25]) for i in range(70)]


def use_everything(run: OpenedRun) -> dict[str, Any]:
    encode = run.corpus.tokenizer.encode
    scores = Scorer(run)([Request(encode(context), encode(text)) for context, text in REQUESTS])
    losses = validation_losses(run, validation_batches(run, 7))
    sampled = continuation(run, encode(PROMPT), 12, Sampling(temperature=1.0, top_p=0.9, seed=3))
    return {
        "losses": {name: (loss.tokens, loss.nats_per_token) for name, loss in losses.items()},
        "logprob": [score.logprob for score in scores],
        "greedy": [score.greedy for score in scores],
        "greedy tokens": list(continuation(run, encode(PROMPT), 40, Sampling(temperature=0.0))),
        "sampled tokens": list(sampled),
    }


@lru_cache
def reference(workers: Workers, run_dir: Path) -> dict[str, Any]:
    """What one process gives."""
    (found,) = workers.run(with_run, 1, run_dir, (), 0, use_everything)
    assert isinstance(found, dict), found
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_what_one_process_gives(workers: Workers, small_run: Path, layout: str) -> None:
    world_size, overrides = LAYOUTS[layout]
    one = reference(workers, small_run)
    for rank in workers.run(with_run, world_size, small_run, overrides, free_port(), use_everything):
        assert isinstance(rank, dict), rank
        for name, (tokens, loss) in one["losses"].items():
            assert rank["losses"][name] == (tokens, pytest.approx(loss, rel=1e-5))
        assert rank["logprob"] == pytest.approx(one["logprob"], abs=1e-4)
        for what in ("greedy", "greedy tokens", "sampled tokens"):
            assert rank[what] == one[what], what


def test_it_does_what_it_is_compared_for(workers: Workers, small_run: Path) -> None:
    """The comparison above could not fail if nothing were in it."""
    one = reference(workers, small_run)
    assert len(one["greedy tokens"]) == 40, "longer than a sequence"
    assert 0 < len(one["sampled tokens"]) <= 12 and one["sampled tokens"] != one["greedy tokens"][:12]
    assert len(set(one["logprob"])) > 40 and max(one["logprob"]) < 0


def test_losses_are_those_that_training_wrote(workers: Workers, small_run: Path) -> None:
    (found,) = workers.run(with_run, 1, small_run, (), 0, _losses_as_in_training)
    recorded = validation_of_training(small_run)
    assert recorded["step"] == 60
    for name, (loss, bits) in found.items():
        assert loss == pytest.approx(recorded["validation"][name], rel=1e-6)
        assert bits == pytest.approx(recorded["bits_per_byte"][name], rel=1e-6)


def _losses_as_in_training(run: OpenedRun) -> dict[str, tuple[float, float]]:
    found = validation_losses(run, validation_batches(run, run.plan.train.eval_sequences))
    return {name: (loss.nats_per_token, loss.bits_per_byte) for name, loss in found.items()}


def test_a_scored_continuation_is_the_validation_loss_of_its_tokens(workers: Workers, small_run: Path) -> None:
    """The scorer's way to a probability is not the loss's."""
    (found,) = workers.run(with_run, 1, small_run, (), 0, _score_validation)
    assert found["score"] == pytest.approx(-found["loss"] * 31, rel=1e-5)


def _score_validation(run: OpenedRun) -> dict[str, float]:
    batch = validation_batches(run, 1)["prose"].rows(0, 1)
    (score,) = Scorer(run)([Request(batch.tokens[0, :1].tolist(), batch.labels[0, :31].tolist())])
    batch.loss_mask[:, 31:] = 0
    return {"score": score.logprob, "loss": validation_losses(run, {"prose": batch})["prose"].nats_per_token}


def test_what_greedy_generation_says_is_scored_as_greedy(workers: Workers, small_run: Path) -> None:
    for scores in workers.run(with_run, 2, small_run, ("parallel.tp=2",), free_port(), _score_greedy):
        assert scores == [True, False]


def _score_greedy(run: OpenedRun) -> list[bool]:
    prompt = run.corpus.tokenizer.encode(PROMPT)
    said = list(continuation(run, prompt, 10, Sampling(temperature=0.0)))
    other = [*said[:-1], (said[-1] + 1) % run.corpus.vocab_size]
    return [score.greedy for score in Scorer(run)([Request(prompt, said), Request(prompt, other)])]
