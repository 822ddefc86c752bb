from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Command


@pytest.fixture
def unipool_dist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``unipool-dist``, called in this process."""
    return Command(monkeypatch, capsys)


@pytest.fixture
def corpus_config(tmp_path: Path, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration that can be submitted, in the current directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.yaml"
    path.write_text(f"data: {{path: {tiny_corpus}}}\nmodel: {{num_layers: 2}}\nrun: {{dir: runs/tiny}}\n")
    return path
