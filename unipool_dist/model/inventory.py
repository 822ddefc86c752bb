"""Every tensor of a model, described once: name, shape, split, type, initial values, training. Pure, no torch.

A family (:mod:`unipool_dist.model.families`) lists the tensors of its models as an :class:`Inventory`. Whoever builds,
trains, counts, saves or exports a model looks them up there, and nobody else tests what a name means.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

Shape = tuple[int, ...]
Part = Literal["embedding", "attention", "norms", "routers", "experts"]
"""``embedding`` is both embedding and output layer; ``experts`` are the FFNs, those of a dense model too."""
Init = float | Literal["ones", "zeros"]
"""Initial values: the standard deviation of a normal distribution with mean 0, or a constant."""

MASTER = "master"
"""The kind of saved state that is a tensor's fp32 value. Other kinds are the optimizer's."""

_NUMBER = re.compile(r"0|[1-9]\d{0,8}", re.ASCII)


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the model, whole, whatever layout holds it."""

    name: str
    """In the whole model; within its layer or expert in :attr:`Inventory.layer` and :attr:`Inventory.expert`."""
    shape: Shape
    part: Part
    init: Init
    tp_dim: int | None = None
    """Dimension that tensor parallelism splits; ``None``: every tensor-parallel rank holds the whole tensor."""
    dtype: Literal["run", "fp32"] = "run"
    """``run``: the type in ``train.dtype``."""
    decays: bool = True
    """Whether weight decay applies."""
    lr_group: Literal["default", "router"] = "default"
    trained: bool = True
    """Whether it is a parameter; if not, it is a buffer of fp32 that is saved like one."""
    public: tuple[str, ...] = ()
    """Its name in a model for transformers, with ``{layer}`` or ``{pool}``; several names: of its parts, two halves or
    queries, keys and values (:mod:`unipool_dist.checkpoint.huggingface.names`). Empty: it has none."""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Inventory:
    """All tensors of a model: those of its ends, and one layer and one expert that describe all the others.

    ``first`` and ``last`` are held by the first and the last pipeline stage. A tensor in both is tied: one tensor that
    both stages use. Iterating yields every tensor of the whole model once, under its global name.
    """

    first: tuple[TensorSpec, ...]
    layer: tuple[TensorSpec, ...]
    last: tuple[TensorSpec, ...]
    expert: tuple[TensorSpec, ...]
    num_layers: int
    num_experts: int
    """In all pools together."""

    def __iter__(self) -> Iterator[TensorSpec]:
        yield from self.of_stage(range(self.num_layers), is_first=True, is_last=True)
        for expert in range(self.num_experts):
            yield from (replace(spec, name=expert_name(expert, spec.name)) for spec in self.expert)

    def __len__(self) -> int:
        return sum(count for _, count in self.counted())

    def find(self, name: str) -> TensorSpec | None:
        """Return the tensor with this global name, or ``None`` if the model has none."""
        group, index, inner = split_name(name)
        count = {"layers": self.num_layers, "experts": self.num_experts}.get(group, 1)
        spec = self._by_name.get((group, inner))
        return replace(spec, name=name) if spec is not None and index < count else None

    def counted(self) -> Iterator[tuple[TensorSpec, int]]:
        """Yield every kind of tensor and how many of it the model has; a tied one counts once."""
        yield from self.counted_of_stage(self.num_layers, is_first=True, is_last=True)
        yield from ((spec, self.num_experts) for spec in self.expert)

    def counted_of_stage(self, num_layers: int, *, is_first: bool, is_last: bool) -> Iterator[tuple[TensorSpec, int]]:
        """Yield what a pipeline stage holds apart from experts, each kind with its number."""
        before, after = self._ends(is_first, is_last)
        yield from ((spec, 1) for spec in before + after)
        yield from ((spec, num_layers) for spec in self.layer)

    def of_stage(self, layers: range, *, is_first: bool, is_last: bool) -> Iterator[TensorSpec]:
        """Yield what the stage with these layers holds apart from experts, under global names."""
        before, after = self._ends(is_first, is_last)
        yield from before
        for layer in layers:
            yield from (replace(spec, name=layer_name(layer, spec.name)) for spec in self.layer)
        yield from after

    @property
    def tied(self) -> tuple[TensorSpec, ...]:
        """Tensors that the first and the last stage share; the first one owns them."""
        return tuple(spec for spec in self.last if spec in self.first)

    def _ends(self, is_first: bool, is_last: bool) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        before = self.first if is_first else ()
        return before, tuple(spec for spec in self.last if is_last and spec not in before)

    @cached_property
    def _by_name(self) -> dict[tuple[str, str], TensorSpec]:
        groups = {"": self.first + self.last, "layers": self.layer, "experts": self.expert}
        return {(group, spec.name): spec for group, specs in groups.items() for spec in specs}


def layer_name(layer: int, name: str) -> str:
    """Return the global name of a layer's tensor."""
    return f"layers.{layer}.{name}"


def expert_name(expert: int, name: str) -> str:
    """Return the global name of an expert's tensor; ``expert`` is its global id."""
    return f"experts.{expert}.{name}"


def split_name(name: str) -> tuple[str, int, str]:
    """Split a global name into ``layers`` or ``experts``, the number, and the name within.

    For a tensor of the ends: an empty text, 0 and the whole name.
    """
    group, _, rest = name.partition(".")
    number, _, inner = rest.partition(".")
    if group in ("layers", "experts") and _NUMBER.fullmatch(number):
        return group, int(number), inner
    return "", 0, name


def is_expert(name: str) -> bool:
    """Return whether a global name is that of an expert's tensor."""
    return split_name(name)[0] == "experts"


def state_key(kind: str, name: str) -> str:
    """Return the name in a checkpoint of one kind of state of the tensor called ``name``."""
    return f"{kind}/{name}"


def split_key(key: str) -> tuple[str, str]:
    """Split a name in a checkpoint into the kind of state and the tensor's name."""
    kind, _, name = key.partition("/")
    return kind, name


def spec_of(parameter: Any) -> TensorSpec:
    """Return what the inventory says of a parameter of a built model.

    An expert bank's parameter is a stack of experts; its description is that of one.
    """
    spec: TensorSpec = parameter.spec
    return spec
