"""``make bench`` runs, and the exchange sends little more than it must. Speed is not a test's business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.run import speed_table, traffic_table
from benchmarks.speed import SpeedResult, Spread
from benchmarks.traffic import Case, TrafficResult

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.run", "--quick", "--json"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True, timeout=600)
    return json.loads(done.stdout[done.stdout.index("{") :])


def test_exchange_sends_at_most_a_tenth_more_than_it_must(figures: dict[str, Any]) -> None:
    ratios = {case["case"]["top_k"]: case["ratio"] for case in figures["traffic"]}
    assert 1.0 <= ratios[1] <= 1.1
    assert ratios[2] >= 1.0


def test_the_benchmark_of_checkpoints_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.checkpoint", "--quick", "--json"]
    command += ["--folder", str(tmp_path)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True, timeout=600)
    rounds = json.loads(done.stdout[done.stdout.index("[") :])
    assert len(rounds) == 2
    for figures in rounds:
        del figures["lost_s"]  # a difference, which noise can make negative
        assert all(value > 0 for value in figures.values())
    assert not list(tmp_path.iterdir()), "its files are gone"


def test_every_contestant_is_measured(figures: dict[str, Any]) -> None:
    assert figures["versions"]["torch"]
    if find_spec("transformers") is None:
        assert figures["speed"] == []
        return
    assert [result["dtype"] for result in figures["speed"]] == ["fp32", "bf16"]
    for result in figures["speed"]:
        assert set(result["tokens_per_s"]) == {"UniPool", "dense, sdpa", "dense, eager"}
        assert all(speed["median"] > 0 for speed in result["tokens_per_s"].values())


def test_spread() -> None:
    assert Spread.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(3.0, (2.0, 4.0), (1.0, 5.0))


def test_tables_show_every_figure() -> None:
    spread = Spread(0.85, (0.8, 0.9), (0.7, 1.0))
    speeds = {"UniPool": Spread(850.0, (800.0, 900.0), (700.0, 1000.0)), "dense, sdpa": spread}
    speed = "\n".join(speed_table([SpeedResult("fp32", 5, speeds, {"dense, sdpa": spread}, "dense, sdpa")]))
    assert "850 (800 .. 900)" in speed and "0.850 (0.800 .. 0.900)  <- the faster" in speed
    traffic = "\n".join(traffic_table([TrafficResult(Case(2, 2, 1), 100, 4, 420_000, 400_000)]))
    assert "1050.0" in traffic and "1000.0" in traffic and "1.0500" in traffic
    assert "not measured" in "\n".join(speed_table([]))
