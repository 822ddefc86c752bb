from __future__ import annotations

import pytest

from tests.support.command import Command


@pytest.fixture
def unipool_dist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``unipool-dist``, called in this process."""
    return Command(monkeypatch, capsys)
