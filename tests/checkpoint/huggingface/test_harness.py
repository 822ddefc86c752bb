"""lm-eval with its own model ``hf`` gives an export the scores that ``eval`` gives the run."""

from __future__ import annotations

import json
import random
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.checkpoint.command_line import succeed
from tests.checkpoint.huggingface.asking import ask, needs_transformers
from tests.support.using import with_run
from tests.support.workers import Workers, free_port
from unipool_dist.inference.opened import OpenedRun
from unipool_dist.inference.scoring import Request, Score, Scorer


def _scores(run: OpenedRun, texts: list[tuple[str, str]]) -> list[Score]:
    encode = run.corpus.tokenizer.encode
    pairs = [(encode(context), encode(context + more)) for context, more in texts]
    return Scorer(run)([Request(context, whole[len(context) :]) for context, whole in pairs])


@needs_transformers
@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed (pip install -e '.[eval]')")
def test_scores_are_those_of_eval(workers: Workers, trained: Path, tmp_path: Path) -> None:
    draw = random.Random(1)
    words = [" fox", " the", " 17+25=", "42", " river", " stone", " brown"]
    texts = [("".join(draw.choices(words, k=3)).strip(), draw.choice(words)) for _ in range(24)]
    (ours,) = workers.run(with_run, 1, trained, (), free_port(), _scores, texts)
    succeed("export", trained, tmp_path / "out", "--format", "hf")
    theirs = ask("harness", tmp_path, tmp_path / "out", json.dumps(texts))
    assert len(ours) == len(theirs) == 24
    for score, (logprob, greedy) in zip(ours, theirs, strict=True):
        assert logprob == pytest.approx(score.logprob, rel=1e-6) and greedy == score.greedy
