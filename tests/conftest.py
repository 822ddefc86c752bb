"""What all tests share: one set of worker processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.workers import Workers


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    """Eight ranks at most, started when first needed and kept for the session."""
    pool = Workers()
    yield pool
    pool.close()
