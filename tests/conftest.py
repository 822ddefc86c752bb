"""What all tests share: one set of worker processes, one tiny corpus."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runs import write_sources
from tests.support.workers import Workers


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
    subprocess.run([*command, "--vocab-size", "320"], check=True, timeout=120)
    return folder / "out"
