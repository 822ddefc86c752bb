"""What doctor tells the one that started its ranks, who cannot rely on their statuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.signals import handlers_given_back
from unipool_dist.cli.doctor import _take_part
from unipool_dist.doctor import examination


@pytest.mark.parametrize("abandoned", [False, True])
def test_the_verdict_is_in_the_file_whatever_becomes_of_the_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abandoned: bool
) -> None:
    """A rank that stands still has to be killed, and the launcher then sees a killed rank, not the finding."""
    monkeypatch.setattr(examination, "Examination", lambda *given: SimpleNamespace(run=lambda: 1, abandoned=abandoned))
    nothing: Any = None
    for rank in (1, 0):
        path = tmp_path / "status"
        assert not path.exists(), "it is rank 0's"
        environment: Any = SimpleNamespace(rank=rank)
        with handlers_given_back():  # a rank with a verdict ignores signals until it ends
            status = _take_part(nothing, environment, lambda report: 1, path)
        assert status == (1 if abandoned else 0), "at 1 a launcher ends those that do not end by themselves"
    assert path.read_text() == "1"
