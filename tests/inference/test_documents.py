"""A model trained with ``data.reset_at_documents`` is used as it was trained: every document by itself."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import train_command
from tests.support.using import validation_of_training, with_run
from tests.support.workers import Workers, free_port
from unipool_dist.errors import DataError
from unipool_dist.inference.generation import continuation
from unipool_dist.inference.opened import OpenedRun
from unipool_dist.inference.sampler import Sampling
from unipool_dist.inference.scoring import Request, Scorer
from unipool_dist.inference.validation import validation_batches, validation_losses

GREEDY = Sampling(temperature=0.0)
SEQUENCES = 24  # of each domain: long enough for documents to end in them


def use(run: OpenedRun) -> dict[str, Any]:
    """Losses, log-probabilities of continuations, and what an empty prompt is answered."""
    encode, end = run.corpus.tokenizer.encode, run.corpus.document_end
    first, second, rest = encode("a slow fox"), encode("the red dog"), encode(" jumps near")
    requests = {
        "alone": Request(second, rest),
        "after another": Request([*first, end, *second], rest),
        "from the beginning": Request([end], [*second, *rest]),
        "but for the first token": Request(second[:1], [*second[1:], *rest]),
    }
    scores = Scorer(run)(list(requests.values()))
    batches = {name: stored.rows(0, len(stored)) for name, stored in validation_batches(run, SEQUENCES).items()}
    losses = validation_losses(run, batches)
    with pytest.raises(DataError, match="the prompt is empty"):
        next(continuation(run, [], 1, GREEDY))
    assert list(continuation(run, [*first, end, *second], 9, GREEDY)) == list(
        continuation(run, second, 9, GREEDY, cached=False)
    )
    return {
        "losses": {name: loss.nats_per_token for name, loss in losses.items()},
        "counted": {name: loss.tokens for name, loss in losses.items()},
        "expected": {name: int((batch.loss_mask * (batch.tokens != end)).sum()) for name, batch in batches.items()},
        "positions": {name: int(batch.loss_mask.sum()) for name, batch in batches.items()},
        "scores": {name: score.logprob for name, score in zip(requests, scores, strict=True)},
    }


def test_evaluation_and_scores_follow_the_run(workers: Workers, tiny_corpus: Path, tmp_path: Path) -> None:
    """The run has a stage in the middle of the pipeline, which reads tokens as all do."""
    overrides = (
        "data.reset_at_documents=true",
        "parallel.pp=3",
        "pool.num_experts=18",
        "train.steps=4",
        f"train.eval_sequences={SEQUENCES}",
    )
    subprocess.run(train_command(tiny_corpus, tmp_path / "run", 3, *overrides), check=True, timeout=600)
    recorded = validation_of_training(tmp_path / "run")["validation"]
    for layout in ((), ("parallel.tp=2",)):
        for found in workers.run(with_run, max(1, 2 * len(layout)), tmp_path / "run", layout, free_port(), use):
            assert isinstance(found, dict), found
            assert found["losses"] == pytest.approx(recorded, rel=1e-5)
            assert found["counted"] == found["expected"]
            assert sum(found["counted"].values()) < sum(found["positions"].values()), "documents end in the text"
            scores = found["scores"]
            assert scores["after another"] == pytest.approx(scores["alone"], rel=1e-5)
            assert scores["from the beginning"] == pytest.approx(scores["but for the first token"], rel=1e-5)
