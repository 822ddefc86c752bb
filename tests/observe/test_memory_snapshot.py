"""Memory snapshots: what is asked of torch.cuda, and that a run without a GPU says so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unipool_dist.config import load_config
from unipool_dist.engine.callback import RunInfo
from unipool_dist.observe.memory_snapshot import MemorySnapshot


def begun(run_dir: Path, device: str, *overrides: str) -> MemorySnapshot:
    groups: Any = SimpleNamespace(device=torch.device(device), rank=0)
    callback = MemorySnapshot()
    callback.run_begins(RunInfo(load_config(None, overrides), groups, None, run_dir, 0))  # type: ignore[arg-type]
    return callback


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked of torch.cuda to record; snapshots are files that say so."""
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **options: asked.append(options))
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", lambda path: Path(path).write_text("snapshot"))
    return asked


def test_after_the_step_that_was_asked_for(tmp_path: Path, recording: list[Any]) -> None:
    callback = begun(tmp_path, "cuda", "log.memory_step=2")
    for step in (1, 2, 3):
        callback.step_ends(step, closing=False)
    assert [path.name for path in (tmp_path / "gpu_memory").iterdir()] == ["step-2-rank-0.pickle"]
    assert recording[-1] == {"enabled": None} and len(recording) == 2


def test_at_out_of_memory_without_being_asked_for(tmp_path: Path, recording: list[Any]) -> None:
    callback = begun(tmp_path, "cuda")
    callback.run_fails(RuntimeError("another"))
    assert not (tmp_path / "gpu_memory").exists()
    callback.run_fails(torch.OutOfMemoryError("CUDA out of memory"))
    assert (tmp_path / "gpu_memory" / "out-of-memory-rank-0.pickle").read_text() == "snapshot"
    assert recording == []


def test_without_a_gpu_it_is_said_to_be_cuda_only(
    tmp_path: Path, recording: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    callback = begun(tmp_path, "cpu", "log.memory_step=2")
    callback.step_ends(2, closing=False)
    callback.run_fails(torch.OutOfMemoryError("out of memory"))
    assert "memory snapshots are CUDA only" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [] and recording == []
