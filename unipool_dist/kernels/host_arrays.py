"""Small arrays from the host to a device, without waiting for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return ``array`` as a tensor on ``device``.

    On CUDA it goes through page-locked memory, which the device reads when it gets there; torch reuses that memory
    only after it has. From ordinary memory the host would wait until the device has done everything before.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
