"""A model from elsewhere that a run may begin with: opened files of safetensors, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from unipool_dist.config import Config
from unipool_dist.errors import CheckpointError
from unipool_dist.model.inventory import Inventory

Read = Callable[[str, int, Tensor], None]
"""``read(name, first, values)`` writes rows of the tensor of ours called ``name``, from ``first`` on, into values."""

_SHOWN = 10


@dataclass(frozen=True)
class Incoming:
    """A model whose tensors are all there, of the right shapes, and can be read."""

    config: Config
    tokenizer_hash: str | None
    """Of the tokenizer that the model was trained with; ``None``: not known."""
    tensors: Inventory
    read: Read

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model."""
        return sum(spec.numel * count for spec, count in self.tensors.counted() if spec.trained)


@dataclass(frozen=True)
class Expected:
    """A tensor that a file must have."""

    name: str
    shape: tuple[int, ...]


def open_files(paths: Iterable[Path]) -> dict[str, Any]:
    """Return by tensor the opened file that holds it.

    Raises:
        CheckpointError: a file is not one of safetensors, or two of them have the same tensor.
    """
    files: dict[str, Any] = {}
    for path in paths:
        try:
            file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a safetensors file: {error}; export again") from None
        for name in file.keys():  # noqa: SIM118 it is not a mapping
            if name in files:
                raise CheckpointError(f"tensor {name} is in {path} and in another file too; export again")
            files[name] = file
    return files


def tensor_faults(
    files: Mapping[str, Any], expected: Sequence[Expected], dtypes: Sequence[str], ignored: Callable[[str], bool]
) -> list[str]:
    """Return what is wrong with the tensors in opened files, in words.

    Args:
        dtypes: the types that can be read, as safetensors calls them.
        ignored: whether a tensor that is not expected may be there.
    """
    known = {tensor.name for tensor in expected}
    faults = [f"{tensor.name} is missing" for tensor in expected if tensor.name not in files]
    faults += [f"{name} is not a parameter of the model" for name in files if name not in known and not ignored(name)]
    for tensor in expected:
        if tensor.name in files:
            found = files[tensor.name].get_slice(tensor.name)
            if tuple(found.get_shape()) != tensor.shape:
                faults.append(f"{tensor.name} has shape {tuple(found.get_shape())} instead of {tensor.shape}")
            if found.get_dtype() not in dtypes:
                faults.append(f"{tensor.name} has type {found.get_dtype()}, which is none of {', '.join(dtypes)}")
    return faults


def refuse_faults(faults: Sequence[str], path: Path, described_by: str, remedy: str) -> None:
    """Refuse weights with faults; the first ten are named.

    Raises:
        CheckpointError: there are some.
    """
    if not faults:
        return
    more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    listed = "\n  ".join(faults[:_SHOWN]) + more
    raise CheckpointError(
        f"the weights in {path} are not those of the model that its {described_by} describes:\n  {listed}\n{remedy}"
    )


def check_size(config: Config, path: Path, num_bytes: int, described_by: str) -> None:
    """Refuse a configuration whose model has more layers or experts than files of this size could hold.

    Checked before they are all listed: each has more weights than the model is wide, of two bytes at least.

    Raises:
        CheckpointError: it has.
    """
    experts = config.pool.num_experts if config.pool.router != "none" else 0
    if (config.model.num_layers + experts) * config.model.hidden_size * 2 > num_bytes:
        raise CheckpointError(
            f"the weights in {path} have {num_bytes:,} bytes, too few for the model that its {described_by} "
            f"describes; export again"
        )
