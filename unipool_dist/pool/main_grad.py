"""``main_grad``: the fp32 gradient of a parameter, summed over a step; named as in Megatron."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def main_grad(parameter: nn.Parameter) -> Tensor:
    """Return the buffer that :func:`zero_main_grad` made: fp32, of the parameter's shape."""
    buffer: Tensor = parameter.main_grad  # type: ignore[attr-defined]
    return buffer


def zero_main_grad(parameter: nn.Parameter) -> None:
    """Set the buffer to zero, making it on first use.

    A parameter that nothing flows to keeps exact zeros, not ``None``.
    """
    if getattr(parameter, "main_grad", None) is None:
        parameter.main_grad = torch.zeros_like(parameter, dtype=torch.float32)  # type: ignore[attr-defined]
    else:
        main_grad(parameter).zero_()
