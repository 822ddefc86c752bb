"""Weights & Biases and MLflow, with their packages where these are installed: files of the run's own, nothing sent."""

from __future__ import annotations

import os
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.observe.test_metrics import COUNTS_LE, record_of
from unipool_dist.config import load_config
from unipool_dist.errors import ConfigError
from unipool_dist.observe.sink import SINKS, SinkStart
from unipool_dist.observe.trackers import MlflowSink, WandbSink


def start(run_dir: Path, *overrides: str, resume_from_step: int | None = None) -> SinkStart:
    run_dir.mkdir(exist_ok=True)
    return SinkStart(run_dir, load_config(None, overrides), resume_from_step)


def needs(package: str) -> None:
    """Skip the test where ``package`` is not installed; to import it here would start its telemetry."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def test_mlflow_writes_files_and_a_resumed_run_continues_them(tmp_path: Path) -> None:
    needs("mlflow")
    before = dict(os.environ)
    for steps, resumed in (((1, 2), None), ((3,), 2)):
        sink = SINKS["mlflow"].open(start(tmp_path / "run", resume_from_step=resumed))
        for step in steps:
            sink.train(record_of(step, loss=4.0 / step))
        sink.usage(steps[-1], COUNTS_LE, 1)
        sink.close()
        sink.close()
    assert dict(os.environ) == before
    (losses,) = (tmp_path / "run" / "mlflow").glob("*/*/metrics/train/loss")
    assert [line.split()[1:] for line in losses.read_text().splitlines()] == [
        ["4.0", "1"],
        ["2.0", "2"],
        [str(4 / 3), "3"],
    ]
    (steps_field,) = (tmp_path / "run" / "mlflow").glob("*/*/params/train.steps")
    assert steps_field.read_text() == "100"


def test_wandb_writes_files_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("wandb")
    monkeypatch.setenv("WANDB_MODE", "online")  # the configuration decides
    sink = SINKS["wandb"].open(start(tmp_path / "run"))
    sink.train(record_of(1))
    sink.validation(1, {"web": 3.0}, {"web": 1.5})
    sink.close()
    (written,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    content = written.read_bytes()
    assert b"train/loss" in content and b"validation/bits_per_byte/web" in content and b"num_layers" in content


class _Fake(types.ModuleType):
    """Remembers how it was called."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.asked: dict[str, Any] = {}
        self.broken = False
        self.Settings = dict

    def init(self, **options: Any) -> _Fake:
        self.asked = options
        return self

    def define_metric(self, *arguments: Any, **options: Any) -> None: ...

    def finish(self) -> None: ...

    def teardown(self) -> None: ...

    def log(self, values: dict[str, float]) -> None:
        raise ConnectionError("no network")


def test_a_tracker_that_fails_is_a_warning_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = _Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    sink = WandbSink.open(start(tmp_path / "run", "log.online=true", "log.project=mine"))
    assert (fake.asked["mode"], fake.asked["project"]) == ("online", "mine")
    first = fake.asked["id"]
    for step in (1, 2):
        sink.train(record_of(step))
    sink.close()
    assert capsys.readouterr().err == (
        "warning: wandb failed, the run continues without it: ConnectionError: no network\n"
    )
    WandbSink.open(start(tmp_path / "run", resume_from_step=2))
    assert (fake.asked["mode"], fake.asked["id"]) == ("offline", first)
    WandbSink.open(start(tmp_path / "run"))
    assert fake.asked["id"] != first, "another run in the same place"


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"pip install 'unipool-dist\[mlflow\]'"):
        MlflowSink.open(start(tmp_path / "run"))
