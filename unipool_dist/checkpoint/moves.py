"""Which rank sends what to whom when experts move to other ranks. Pure arithmetic, no torch.

A rank's optimizer has runs of elements of its experts' stacks; which expert a slot of a stack belongs to is the
placement's to say. Where the runs are does not change when experts move, so that two placements say who has what and
who needs what.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from unipool_dist.checkpoint.pieces import Piece, Shape, whole
from unipool_dist.checkpoint.shares import Write
from unipool_dist.model.inventory import expert_name
from unipool_dist.pool.placement import Placement


@dataclass(frozen=True)
class Run:
    """Elements ``start`` to ``start + numel`` of a flattened stack of tensors of one expert each."""

    name: str
    shape: Shape
    """Of one expert's tensor."""
    start: int
    numel: int
    dtype: str

    def pieces(self, experts: Sequence[int]) -> Iterator[tuple[Piece, int]]:
        """Yield what the run has of each of ``experts``, which are in the stack by slot, and its place in the run."""
        size = math.prod(self.shape)
        end = self.start + self.numel
        for slot in range(self.start // size, -(-end // size)):
            first, last = max(self.start, slot * size), min(end, (slot + 1) * size)
            piece = whole(expert_name(experts[slot], self.name), self.shape, self.dtype)
            yield piece.part(first - slot * size, last - first), first - self.start


@dataclass(frozen=True)
class Bank:
    """What one rank's optimizer has of the experts that its pool rank owns."""

    pools: tuple[int, ...]
    pool_rank: int
    runs: tuple[Run, ...]


def expert_moves(banks: Sequence[Bank], old: Placement, new: Placement, rank: int) -> list[Write]:
    """Return what ``rank`` sends, receives or moves between its own slots, for ``old`` to become ``new``.

    Two ranks list what passes between them in the same order. Where several ranks hold the same elements, each of
    those that need them has them from another one, as far as possible.

    Args:
        banks: of all ranks, by rank; those with other pools than ``rank`` do not take part.
    """
    members = [other for other, bank in enumerate(banks) if bank.pools == banks[rank].pools]
    own = banks[rank].pool_rank
    moved = {
        expert
        for expert in old.order
        if old.position[expert] != new.position[expert]
        and own in (old.position[expert] // old.experts_per_rank, new.position[expert] // new.experts_per_rank)
    }
    names = {expert_name(expert, run.name) for expert in moved for run in banks[rank].runs}
    held = _by_key(banks, members, old, names)
    needed = _by_key(banks, members, new, names)
    return [
        write
        for key in sorted(held)
        for write in _matched(held[key], needed[key])
        if rank in (write.holder, write.writer)
    ]


def window(writes: Sequence[Write], first: int, last: int) -> list[Write]:
    """Return the parts of ``writes`` that are elements ``first`` to ``last`` of their experts."""
    cut = []
    for write in writes:
        start, end = max(first, write.piece.start), min(last, write.piece.start + write.piece.numel)
        if start < end:
            cut.append(replace(write, piece=write.piece.part(start - write.piece.start, end - start)))
    return cut


_Holders = dict[Piece, list[int]]


def _by_key(
    banks: Sequence[Bank], members: Sequence[int], placement: Placement, names: set[str]
) -> dict[str, _Holders]:
    """Return the pieces that the members have under ``placement``, and who has them, by tensor."""
    found: dict[str, _Holders] = defaultdict(lambda: defaultdict(list))
    for member in members:
        experts = placement.experts_of(banks[member].pool_rank)
        for run in banks[member].runs:
            for piece, _ in run.pieces(experts):
                if piece.key in names:
                    found[piece.key][piece].append(member)
    return found


def _matched(held: _Holders, needed: _Holders) -> Iterator[Write]:
    """Yield the pieces of one tensor that pass from who holds them to who needs them."""
    for wanted, writers in needed.items():
        for piece, holders in held.items():
            start = max(wanted.start, piece.start)
            end = min(wanted.start + wanted.numel, piece.start + piece.numel)
            if start < end:
                part = piece.part(start - piece.start, end - start)
                for index, writer in enumerate(writers):
                    yield Write(part, holders[index % len(holders)], writer)
