"""The ``checkpoint`` commands called in this process, and checkpoints read without anything of this project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner, Result
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from unipool_dist.cli.checkpoint import checkpoint


def call(*arguments: object) -> Result:
    """The result of a command that must not fail unexpectedly; an error for the user is its ``exception``."""
    return CliRunner().invoke(checkpoint, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    """What a command that must succeed has written to standard output."""
    result = call(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def document(*arguments: object) -> Any:
    """The one JSON document that is all of the standard output."""
    return json.loads(succeed(*arguments, "--json"))


def fail(*arguments: object) -> str:
    """The message of the error in which a command must end; nothing is on standard output."""
    result = call(*arguments)
    assert result.exception is not None and result.stdout == ""
    return f"{type(result.exception).__name__}: {result.exception}"


def step_folder(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:08d}"


def tensors_of(folder: Path, scratch: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by torch's own converter."""
    dcp_to_torch_save(folder, scratch / "tensors.pt")
    tensors: dict[str, torch.Tensor] = torch.load(scratch / "tensors.pt")
    return tensors


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether names, types, shapes and every bit are the same."""
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype
        and value.shape == other[name].shape
        and torch.equal(value.contiguous().view(torch.uint8), other[name].contiguous().view(torch.uint8))
        for name, value in one.items()
    )
