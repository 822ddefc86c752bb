"""FLOP/s, their share of a device's peak, and the time that is left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unipool_dist.config import Config, Plan, resolve
from unipool_dist.engine.callback import RunInfo
from unipool_dist.observe.lines import train_line
from unipool_dist.observe.metrics import TRAIN_KEYS
from unipool_dist.observe.speed import Speed, peak_flops
from unipool_dist.planning.flops import training_flops


def speed_on(device: str, world_size: int = 4) -> tuple[dict[str, float | int], Plan]:
    values = {"model": {"vocab_size": 512}, "train": {"dtype": "bf16", "steps": 100}}
    config = resolve(Config.model_validate(values), world_size)
    groups: Any = SimpleNamespace(device=torch.device(device), rank=0, grid=SimpleNamespace(world_size=world_size))
    callback = Speed()
    callback.run_begins(RunInfo(config, groups, None, Path(), 0))  # type: ignore[arg-type]
    record: dict[str, float | int] = dict.fromkeys(TRAIN_KEYS, 0.5) | {
        "step": 40, "tokens_per_s": 1e6, "step_time_s": 61.0,
    }  # fmt: skip
    callback.extend_record(record, torch.zeros(1, 1))
    return record, config


def test_on_a_known_device_the_share_of_its_peak_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    record, config = speed_on("cuda")
    flops = 1e6 * training_flops(config) / 4
    assert record["tflops_per_device"] == pytest.approx(flops / 1e12)
    assert record["mfu"] == pytest.approx(flops / 989.4e12)
    assert record["eta_s"] == 60 * 61.0
    line = train_line(record, 100)
    assert "TFLOP/s" in line and "MFU" in line and line.endswith("left   1:01:00")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_without_a_known_peak_there_is_no_mfu(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Another GPU")
    record, _ = speed_on(device)
    assert "mfu" not in record and "MFU" not in train_line(record, 100)
    assert peak_flops("NVIDIA H100 80GB HBM3", "fp32") == pytest.approx(66.9e12)
