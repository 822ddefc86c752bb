"""Where the rows of each tensor are in a model for transformers. Pure, no torch.

The names are the column ``public`` of the inventory. What classes of transformers call otherwise is in a
:data:`Dialect`. Everything else follows: export reads a table of these places in one direction, import in the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from unipool_dist.config.plan import Plan
from unipool_dist.model.families import inventory
from unipool_dist.model.inventory import Shape, TensorSpec, split_name

Dialect = Mapping[str, tuple[str, ...]]
"""Public names by our name within a layer or expert, where they are not those of the inventory."""

UNIPOOL: Dialect = {}
"""Our own class, ``modeling_unipool.py``."""
LLAMA: Dialect = {
    "gate_up": ("model.layers.{layer}.mlp.gate_proj.weight", "model.layers.{layer}.mlp.up_proj.weight"),
    "down": ("model.layers.{layer}.mlp.down_proj.weight",),
}
MIXTRAL: Dialect = {
    "router.weight": ("model.layers.{layer}.block_sparse_moe.gate.weight",),
    "gate_up": tuple(f"model.layers.{{layer}}.block_sparse_moe.experts.{{expert}}.w{n}.weight" for n in (1, 3)),
    "down": ("model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight",),
}


@dataclass(frozen=True)
class Rows:
    """Neighbouring rows of a tensor of ours, and where they are in a public one."""

    first: int
    count: int
    name: str
    entry: int | None
    """Number in a stack of tensors, its first dimension; ``None``: the public tensor is no stack."""
    at: int
    """First row there, within the entry."""


@dataclass(frozen=True)
class Public:
    """A tensor in a file for transformers, and the rows of ours that it is made of, in its order."""

    name: str
    shape: Shape
    dtype: Literal["run", "fp32"]
    sources: tuple[tuple[TensorSpec, Rows], ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def places(spec: TensorSpec, plan: Plan, dialect: Dialect) -> list[Rows]:
    """Return where the rows of a tensor with a global name are; they cover the tensor, in its order.

    The caller has made sure that the tensor has a public name.
    """
    group, index, inner = split_name(spec.name)
    names = dialect.get(inner, spec.public)
    pool, expert = divmod(index, plan.pool.num_experts) if group == "experts" else (0, 0)
    layer = plan.pools.layers_of(pool).start if group == "experts" else index
    entry = expert if group == "experts" and "{expert}" not in names[0] and "{pool}" in names[0] else None
    full = [name.format(layer=layer, pool=pool, expert=expert) for name in names]
    rows, taken = [], dict.fromkeys(full, 0)
    first = 0
    for part, count in _parts(spec, plan, len(full)):
        rows.append(Rows(first, count, full[part], entry, taken[full[part]]))
        taken[full[part]] += count
        first += count
    assert first == spec.shape[0]
    return rows


def public_tensors(plan: Plan, dialect: Dialect) -> list[Public]:
    """Return the tensors of the model as transformers names them, in the order of the inventory."""
    found: dict[str, list[tuple[TensorSpec, Rows]]] = {}
    for spec in inventory(plan):
        for rows in places(spec, plan, dialect):
            found.setdefault(rows.name, []).append((spec, rows))
    return [_public(name, sources) for name, sources in found.items()]


def _parts(spec: TensorSpec, plan: Plan, count: int) -> Iterator[tuple[int, int]]:
    """Yield runs of rows of a tensor with ``count`` names: the number of the name, and how many rows."""
    if count == 1:
        yield 0, spec.shape[0]
    elif count == 2:
        yield from ((part, spec.shape[0] // 2) for part in range(2))
    else:  # group after group: its queries, its key, its value
        model = plan.model
        head = model.hidden_size // model.num_attention_heads
        queries = model.num_attention_heads // model.num_query_groups * head
        for _ in range(model.num_query_groups):
            yield from enumerate((queries, head, head))


def _public(name: str, sources: list[tuple[TensorSpec, Rows]]) -> Public:
    spec, rows = sources[0]
    if rows.entry is not None:
        return Public(name, (len(sources), *spec.shape), spec.dtype, tuple(sources))
    return Public(name, (sum(rows.count for _, rows in sources), *spec.shape[1:]), spec.dtype, tuple(sources))
