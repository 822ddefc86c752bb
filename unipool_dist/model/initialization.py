"""Initial weights that depend on the seed and on a weight's name, never on the layout.

Every weight is drawn whole, on the CPU, from a generator of its own, and a rank keeps its slice; experts are drawn
one by one under their global ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from unipool_dist.errors import ConfigError
from unipool_dist.model.inventory import TensorSpec, expert_name, spec_of


def describe(module: nn.Module, specs: Iterable[TensorSpec]) -> None:
    """Attach to every parameter of ``module`` its description, by name (:func:`unipool_dist.model.inventory.spec_of`).

    Raises:
        ConfigError: the parameters are not those described: the model family contradicts itself.
    """
    expected = {spec.name: spec for spec in specs if spec.trained}
    parameters = dict(module.named_parameters())
    if parameters.keys() != expected.keys():
        names = ", ".join(sorted(parameters.keys() ^ expected.keys()))
        raise ConfigError(
            f"the model that is built and the inventory of its family differ in {names}; correct the family"
        )
    for name, parameter in parameters.items():
        parameter.spec = expected[name]  # type: ignore[attr-defined]


def initial_values(spec: TensorSpec, seed: int) -> Tensor:
    """Return the whole tensor in fp32 with its initial values."""
    if isinstance(spec.init, str):
        return torch.full(spec.shape, {"zeros": 0.0, "ones": 1.0}[spec.init])
    digest = hashlib.sha256(f"{seed}/{spec.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)
    return torch.randn(spec.shape, generator=generator) * spec.init


def shard(full: Tensor, dim: int | None, tp_index: int, tp_size: int) -> Tensor:
    """Return this rank's slice of a tensor split along ``dim`` over tensor parallelism; all if ``dim`` is ``None``."""
    return full if dim is None else full.chunk(tp_size, dim)[tp_index]


@torch.no_grad()
def initialize_dense(
    parameters: Iterable[nn.Parameter], seed: int, tp_index: int, tp_size: int, drawing: Callable[[], None]
) -> None:
    """Fill the parameters of a stage, which carry their descriptions; call ``drawing`` before each."""
    for parameter in parameters:
        drawing()
        spec = spec_of(parameter)
        parameter.copy_(shard(initial_values(spec, seed), spec.tp_dim, tp_index, tp_size))


@torch.no_grad()
def initialize_experts(
    bank: Iterable[nn.Parameter], expert_ids: tuple[int, ...], seed: int, drawing: Callable[[], None]
) -> None:
    """Fill the parameters of a bank, stacks of the experts with these global ids; call ``drawing`` before each."""
    for stack in bank:
        spec = spec_of(stack)
        for slot, expert in enumerate(expert_ids):
            drawing()
            stack[slot] = initial_values(replace(spec, name=expert_name(expert, spec.name)), seed)
