"""How experts are computed: a protocol, a plain reference, and an implementation for each kind of device."""

from __future__ import annotations

import torch

from unipool_dist.kernels.cpu import CpuKernel
from unipool_dist.kernels.cuda import CudaKernel
from unipool_dist.kernels.protocol import ExpertKernel


def kernel_for(device: torch.device) -> ExpertKernel:
    """Return the kernel for experts on ``device``."""
    return CudaKernel() if device.type == "cuda" else CpuKernel()
