"""How fast a run is for its hardware: TFLOP/s per device, model FLOPs utilisation (MFU), and the time that is left."""

from __future__ import annotations

import torch
from torch import Tensor

from unipool_dist.engine.callback import Callback, RunInfo
from unipool_dist.planning.flops import training_flops

PEAK_TFLOPS = {
    # Name as CUDA reports it: dense tensor-core bf16, fp32 without tensor cores (torch's default precision).
    "NVIDIA A100-PCIE-40GB": (312.0, 19.5),
    "NVIDIA A100 80GB PCIe": (312.0, 19.5),
    "NVIDIA A100-SXM4-40GB": (312.0, 19.5),
    "NVIDIA A100-SXM4-80GB": (312.0, 19.5),
    "NVIDIA H100 80GB HBM3": (989.4, 66.9),
    "NVIDIA H100 PCIe": (756.0, 51.2),
    "NVIDIA H100 NVL": (835.5, 60.0),
    "NVIDIA H200": (989.4, 66.9),
    "NVIDIA L40S": (362.05, 91.6),
}
"""Peak of devices in 10^12 FLOP/s, from NVIDIA's data sheets (without sparsity)."""


def peak_flops(device_name: str, dtype: str) -> float | None:
    """Return the FLOP/s that a device can do at most in ``bf16`` or ``fp32``; ``None`` if it is not in the table."""
    peaks = PEAK_TFLOPS.get(device_name)
    return None if peaks is None else 1e12 * peaks[dtype == "fp32"]


class Speed(Callback):
    """Adds ``tflops_per_device``, ``mfu`` (where the device's peak is known) and ``eta_s`` to training records.

    Model FLOPs are counted (:mod:`unipool_dist.planning.flops`), so recomputation does not raise the numbers. The time
    left leaves out evaluations, as the step time does.
    """

    def run_begins(self, run: RunInfo) -> None:
        self._steps, self._num_devices = run.plan.train.steps, run.groups.grid.world_size
        self._plan = run.plan
        device = run.groups.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        self._peak = peak_flops(name, run.plan.train.dtype)

    def extend_record(self, record: dict[str, float | int], assignments: Tensor) -> None:
        # Of a window across the border of two stages, as if all of it were in the later one.
        flops = record["tokens_per_s"] * training_flops(self._plan.at(int(record["step"]))) / self._num_devices
        record["tflops_per_device"] = flops / 1e12
        if self._peak is not None:
            record["mfu"] = flops / self._peak
        record["eta_s"] = (self._steps - record["step"]) * record["step_time_s"]
