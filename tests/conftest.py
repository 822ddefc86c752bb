"""What all tests share: one set of worker processes, one tiny corpus, and the rule that a test leaves no trace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runs import train_command, write_sources
from tests.support.signals import handlers, handlers_given_back
from tests.support.workers import Workers


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A test that leaves a signal ignored fails itself, not a later one: what that starts would inherit it."""
    before = handlers()
    with handlers_given_back():
        yield
        after = handlers()
    assert after == before, "this test changed what a signal does and did not change it back"


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    """Eight ranks at most, started when first needed and kept for the session."""
    pool = Workers()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of two made-up domains, prepared by the command line."""
    folder = tmp_path_factory.mktemp("corpus")
    sources = [f"--source={name}={path}" for name, path in write_sources(folder).items()]
    command = [sys.executable, "-m", "unipool_dist", "data", "prepare", str(folder / "out"), *sources]
    subprocess.run([*command, "--vocab-size", "320"], check=True, timeout=600)
    return folder / "out"


@pytest.fixture(scope="session")
def small_run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a model that has learned something, with checkpoints of steps 40 and 60. Not to be changed.

    Two layers share 16 experts, two for each token, so that any rank can be given one layer and every expert matters.
    """
    run_dir = tmp_path_factory.mktemp("small") / "run"
    overrides = (
        "model.num_layers=2",
        "pool.top_k=2",
        "train.steps=60",
        "train.eval_interval=60",
        "checkpoint.interval=40",
        "optimizer.lr=0.01",
        "log.interval=20",
        "log.tensorboard=false",
    )
    subprocess.run(train_command(tiny_corpus, run_dir, 1, *overrides), check=True, timeout=600)
    return run_dir
