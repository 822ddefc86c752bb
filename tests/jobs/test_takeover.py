"""Waiting for a former start has an end, whatever that does."""

from __future__ import annotations

from pathlib import Path

import pytest

from unipool_dist.jobs import takeover
from unipool_dist.jobs.takeover import wait_for_run
from unipool_dist.run.lock import RunLock


def test_it_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "PATIENCE_S", 0.3)
    monkeypatch.setattr(takeover, "_LOOK_EVERY_S", 0.1)
    said: list[str] = []
    with RunLock(tmp_path):
        assert wait_for_run(tmp_path, "17", 1, is_ending=lambda: False, say=said.append)
    (line,) = said
    assert line.startswith("the run is still held by process")


def test_without_a_former_start_it_does_not_wait(tmp_path: Path) -> None:
    said: list[str] = []
    assert not wait_for_run(tmp_path, "17", 1, is_ending=lambda: False, say=said.append)
    assert said == [] and list(tmp_path.iterdir()) == []
