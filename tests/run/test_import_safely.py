"""What the launcher sets so that its processes find this package, and nothing that happens to lie around."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import unipool_dist
from unipool_dist.run.launch import import_safely

ROOT = Path(unipool_dist.__file__).parents[1]
pytestmark = pytest.mark.pure


def test_a_process_that_launches_many_runs_names_the_package_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    for _ in range(3):
        import_safely()
    assert os.environ["PYTHONPATH"] == f"/somewhere{os.pathsep}{ROOT}"
    assert os.environ["PYTHONSAFEPATH"] == "1"


def test_elsewhere_nothing_is_added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    import_safely()
    assert os.environ["PYTHONPATH"] == "/somewhere"
