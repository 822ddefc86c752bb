"""What all tests share: their kinds and budgets, one set of worker processes, one tiny corpus, and the rule that a test
leaves no trace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support.budget import budget_of, cpu_s
from tests.support.marking import KINDS, kinds_of
from tests.support.preloaded.session import PRELOADED
from tests.support.runs import train_command, write_sources
from tests.support.signals import handlers, handlers_given_back
from tests.support.workers import Workers

# Processes side by side, of one thread each; and what is forked from one process needs the same setting as it had.
os.environ.setdefault("OMP_NUM_THREADS", "1")
PRELOADED.install()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--preloaded``."""
    parser.addoption("--preloaded", action="store_true", help="programs that tests start are forks of a preloaded one")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its kinds."""
    for item in items:
        assert isinstance(item, pytest.Function)
        given = {mark.name for mark in item.iter_markers()}
        for kind in sorted(kinds_of(item) - given):
            if kind != "pure" or not given.intersection(KINDS):
                item.add_marker(kind)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """With ``--preloaded``, let programs from here on be forks, but for the tests that want ``real_programs``."""
    real = "real_programs" in item.keywords or not item.config.getoption("--preloaded")
    PRELOADED.begin(item.nodeid, real=real, allowed="pure" not in item.keywords)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Fail a test that used more CPU time than is right for its kind."""
    pool: Workers | None = getattr(item, "funcargs", {}).get("workers")
    before = cpu_s(pool.pids() if pool else ())
    yield
    used = cpu_s(pool.pids() if pool else ()) - before
    budget = budget_of(mark.name for mark in item.iter_markers())
    assert used <= budget, f"this test used {used:.0f} s of CPU; of its kind {budget} s are right"


def pytest_unconfigure() -> None:
    """End the process that programs were forked from."""
    PRELOADED.close()


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
