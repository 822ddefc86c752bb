"""``python -m benchmarks.run``: measure, print two tables, and keep the figures as JSON."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.speed import UNIPOOL, SpeedResult, Spread, measure_speed
from benchmarks.traffic import Case, TrafficResult, measure_traffic
from benchmarks.workload import Workload

RESULTS = Path(__file__).parent / "results"

# Bytes do not depend on the width of an expert's hidden layer, nor on how many tokens there are.
TRAFFIC = Workload(ffn_hidden_size=64, micro_batch_size=1)
TRAFFIC_CASES = [Case(2, 2, 1), Case(2, 2, 2), Case(4, 2, 1), Case(4, 2, 2)]
QUICK = Workload(2, 64, 96, 4, 2, 128, 64, 2)
QUICK_CASES = [Case(2, 2, 1), Case(2, 2, 2)]


@click.command(context_settings={"show_default": True})
@click.option("--rounds", default=15, help="rounds of the speed comparison for each number type")
@click.option("--quick", is_flag=True, help="tiny sizes, few rounds: shows that it runs, measures nothing of interest")
@click.option("--json", "as_json", is_flag=True, help="print the figures as JSON instead of tables; write no file")
def main(rounds: int, quick: bool, as_json: bool) -> None:
    """Speed of one process against a dense model, and bytes sent by the exchange against the least possible."""
    speed = _measure_speed(QUICK if quick else Workload(), 2 if quick else rounds)
    traffic = measure_traffic(QUICK if quick else TRAFFIC, QUICK_CASES if quick else TRAFFIC_CASES)
    figures = {
        "versions": versions(),
        "speed": [_speed_figures(s) for s in speed],
        "traffic": _traffic_figures(traffic),
    }
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    click.echo("\n".join([*speed_table(speed), "", *traffic_table(traffic)]))
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
        path.write_text(json.dumps(figures, indent=2) + "\n")
        click.echo(f"\nfigures in {path}")


def versions() -> dict[str, str]:
    """What the figures depend on."""
    found = {"python": platform.python_version(), "cpu": torch.backends.cpu.get_cpu_capability()}
    for package in ("torch", "transformers", "megatron-core"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def speed_table(results: list[SpeedResult]) -> list[str]:
    """Lines that say how fast each contestant was, and how UniPool compares."""
    if not results:
        return ["Speed: not measured, transformers is not installed (pip install '.[bench]')."]
    lines = [
        "Forward + backward of one process on one core, tokens/s, median of all rounds (first .. third quartile)",
        ", ".join(f"{name} {value}" for name, value in versions().items()),
        f"{'type':6}{'model':16}{'tokens/s':>24}   UniPool / dense, per round",
    ]
    for result in results:
        for name, speed in result.tokens_per_s.items():
            line = f"{result.dtype:6}{name:16}{_spread(speed, 0):>24}"
            if name != UNIPOOL:
                line += f"   {_spread(result.ratio[name], 3)}{'  <- the faster' * (name == result.fastest_dense)}"
            lines.append(line)
    return lines


def traffic_table(results: list[TrafficResult]) -> list[str]:
    """Lines that compare bytes sent with the least possible."""
    lines = [
        "Bytes sent by the exchange, per token and layer, one pool over all ranks",
        f"{'pp':>3}{'dp':>3}{'ranks':>7}{'k':>3}{'sent':>12}{'least':>12}{'sent / least':>14}",
    ]
    for result in results:
        case, sent = result.case, result.bytes_per_token_and_layer
        lines.append(
            f"{case.pp:>3}{case.dp:>3}{case.world_size:>7}{case.top_k:>3}{sent:>12.1f}{sent / result.ratio:>12.1f}"
            f"{result.ratio:>14.4f}"
        )
    return lines


def _measure_speed(workload: Workload, rounds: int) -> list[SpeedResult]:
    if find_spec("transformers") is None:
        return []
    return [measure_speed(workload, dtype, rounds=rounds) for dtype in ("fp32", "bf16")]


def _speed_figures(result: SpeedResult) -> dict[str, Any]:
    return asdict(result)


def _traffic_figures(results: list[TrafficResult]) -> list[dict[str, Any]]:
    return [asdict(r) | {"bytes_per_token_and_layer": r.bytes_per_token_and_layer, "ratio": r.ratio} for r in results]


def _spread(spread: Spread, digits: int) -> str:
    low, high = spread.quartiles
    return f"{spread.median:,.{digits}f} ({low:,.{digits}f} .. {high:,.{digits}f})"


if __name__ == "__main__":
    main()
