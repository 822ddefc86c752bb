"""Compute speed of each rank, measured on all at the same time, as in training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from unipool_dist.base.units import ratios
from unipool_dist.doctor.findings import Check
from unipool_dist.doctor.judgement import SLOW_FACTOR, slow_nodes_and_ranks
from unipool_dist.doctor.measurement import Probe
from unipool_dist.doctor.roster import Roster
from unipool_dist.doctor.timing import synchronize

_WINDOWS, _WINDOW_S = 5, 0.2
_SIZE = {"cpu": 256, "cuda": 4096}
_BATCH = {"cpu": 1, "cuda": 8}
_SHARED_CORE = 0.8


@dataclass(frozen=True)
class Products:
    """The matrix products of one rank."""

    seconds: float
    """Time of one product: the median over windows of the mean in each."""
    flops: float
    """Operations of one product."""
    core_share: float
    """CPU time of this process by wall-clock time; less than 1 if it had to wait for a core."""


class Compute(Probe[Products]):
    """Square matrix products, fp32 on a CPU and bf16 on a GPU, for the same time on every rank.

    Means over windows that are long compared with the scheduler's, because a single product either shares its core with
    another process or does not.
    """

    name = "compute"
    measured = Products

    def __init__(self, device: torch.device, roster: Roster) -> None:
        self._device, self._roster = device, roster

    def measure(self, brief: str) -> Products:
        size, batch = _SIZE[self._device.type], _BATCH[self._device.type]
        dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        a = torch.ones(size, size, dtype=dtype, device=self._device)
        out = a @ a
        synchronize(self._device)
        means = []
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(_WINDOWS):
            started, count = time.perf_counter(), 0
            while (elapsed := time.perf_counter() - started) < _WINDOW_S:
                for _ in range(batch):
                    torch.mm(a, a, out=out)
                synchronize(self._device)
                count += batch
            means.append(elapsed / count)
        share = (time.process_time() - cpu) / (time.perf_counter() - wall)
        return Products(median(means), 2.0 * size**3, share)

    def judge(self, measured: Sequence[Products]) -> list[Check]:
        return [judge_compute(measured, self._roster)]


def faster(one: Products, other: Products) -> Products:
    """Return the faster of two measurements."""
    return min(one, other, key=lambda products: products.seconds)


def judge_compute(measured: Sequence[Products], roster: Roster) -> Check:
    """Find the nodes and ranks that compute slowly. Pure."""
    nodes, ranks = slow_nodes_and_ranks([one.seconds for one in measured], roster)
    middle = median(one.flops / one.seconds for one in measured)
    slowest = max(range(len(measured)), key=lambda rank: measured[rank].seconds)
    lowest = measured[slowest].flops / measured[slowest].seconds
    advice = ""
    if nodes or ranks:
        named = nodes | {roster.name([rank]): ratio for rank, ratio in ranks.items()}
        waits = measured[slowest].core_share < _SHARED_CORE
        remedy = "it waits for a core: see `cores`, and `top` there" if waits else "see its clock rate, heat and load"
        advice = f"slower than the median: {ratios(named)}; {remedy}, or leave it out"
    return Check(
        "compute",
        "warn" if advice else "ok",
        f"{_flops(middle)} on the median rank, {_flops(lowest)} on rank {slowest}",
        f"nobody above {SLOW_FACTOR:g}x the median",
        advice,
        middle / 1e9,
        "GFLOP/s",
        {
            "product_seconds": [one.seconds for one in measured],
            "product_flops": measured[0].flops,
            "core_share": [one.core_share for one in measured],
        },
        slow_nodes=tuple(nodes),
        slow_ranks=tuple(ranks),
    )


def _flops(value: float) -> str:
    return f"{value / 1e12:.0f} TFLOP/s" if value >= 1e13 else f"{value / 1e9:.0f} GFLOP/s"
