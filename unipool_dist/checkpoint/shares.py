"""Which rank writes what, so that all ranks write about equally much. Pure arithmetic, no torch.

Replicas are written once. Remaining imbalance, because a stage has more layers or the embedding, or because not
everything divides, is evened out: ranks with too much send the rest to ranks with too little.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from unipool_dist.checkpoint.pieces import Piece

TOLERANCE = 0.02
"""Nothing is sent while no rank's bytes differ from the mean by more than this share of it."""


@dataclass(frozen=True)
class Write:
    """A piece that ``writer`` writes, and gets from ``holder`` (often itself)."""

    piece: Piece
    holder: int
    writer: int


def share_writes(held: Sequence[Sequence[Piece]]) -> list[Write]:
    """Assign everything that is ``held`` (by rank) to writers, each element once; the same list on every rank.

    Pieces that several ranks hold must be equal; other pieces of one tensor must not overlap and must cover it.
    """
    holders: dict[Piece, list[int]] = defaultdict(list)
    for rank, pieces in enumerate(held):
        for piece in pieces:
            holders[piece].append(rank)
    _check_coverage(holders)
    by_rank: list[list[Piece]] = [[] for _ in held]
    load = [0] * len(held)
    # What only one rank holds first; replicas then fill up the ranks that have least.
    for piece, ranks in sorted(holders.items(), key=lambda item: (len(item[1]), -item[0].num_bytes)):
        rank = min(ranks, key=lambda rank: load[rank])
        by_rank[rank].append(piece)
        load[rank] += piece.num_bytes
    return _even_out(by_rank, load)


def _even_out(by_rank: list[list[Piece]], load: list[int]) -> list[Write]:
    target = sum(load) / len(load)
    slack = TOLERANCE * target
    writes: list[Write] = []
    uneven = max(load) > target + slack or min(load) < target - slack
    # All that are below: many a little below may be what one is far above.
    missing = {rank: target - num_bytes for rank, num_bytes in enumerate(load) if uneven and num_bytes < target}
    for holder, pieces in enumerate(by_rank):
        excess = load[holder] - target
        if excess <= 0:
            writes += [Write(piece, holder, holder) for piece in pieces]
            continue
        for piece in sorted(pieces, key=lambda piece: -piece.num_bytes):
            rest = piece
            while missing and excess > 0:
                writer = max(missing, key=lambda rank: missing[rank])
                numel = _cut(rest, min(excess, missing[writer]))
                if numel == 0:
                    break
                writes.append(Write(rest.part(0, numel), holder, writer))
                excess -= numel * rest.itemsize
                missing[writer] -= numel * rest.itemsize
                if missing[writer] <= slack / 2:
                    del missing[writer]
                rest = rest.part(numel, rest.numel - numel)
                if rest.numel == 0:
                    break
            if rest.numel:
                writes.append(Write(rest, holder, holder))
    return writes


def _cut(piece: Piece, num_bytes: float) -> int:
    """Return about ``num_bytes`` of ``piece``, in elements: whole rows if a row is small, to get few boxes."""
    numel = min(piece.numel, int(num_bytes // piece.itemsize))
    row = math.prod(piece.shard_shape[1:])
    if numel == piece.numel or row * 8 > numel:
        return numel
    return (piece.start + numel) // row * row - piece.start


def _check_coverage(pieces: dict[Piece, list[int]]) -> None:
    covered: dict[str, int] = defaultdict(int)
    for piece in pieces:
        covered[piece.key] += piece.numel
    for piece in pieces:
        assert covered[piece.key] == math.prod(piece.shape), f"{piece.key}: {covered[piece.key]} of {piece.shape}"
