"""Which pieces pass between ranks when experts move: everything arrives, and both ends of a message agree."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest

from tests.pool.test_placement import Shuffled
from unipool_dist.checkpoint.moves import Bank, Run, expert_moves, window
from unipool_dist.checkpoint.pieces import Piece
from unipool_dist.pool.placement import Contiguous, Placement, PoolGroup

SHAPES = {"gate_up": (4, 3), "down": (3, 2)}


def _banks(pools: tuple[int, ...], group: PoolGroup, replicas: int, *, sharded: bool) -> list[Bank]:
    """As ZeRO leaves them: both stacks one after the other, cut into equal runs over the replicas, or whole on each."""
    slots = len(pools) * group.num_experts // group.parallel_size
    sizes = {name: slots * math.prod(shape) for name, shape in SHAPES.items()}
    part = -(-sum(sizes.values()) // replicas)
    banks = []
    for replica in range(replicas):
        for pool_rank in range(group.parallel_size):
            runs, begin = [], 0
            for name, size in sizes.items():
                first, last = (replica * part, (replica + 1) * part) if sharded else (0, begin + size)
                start, end = max(first, begin), min(last, begin + size)
                if start < end:
                    runs.append(Run(name, SHAPES[name], start - begin, end - start, "float32"))
                begin += size
            banks.append(Bank(pools, pool_rank, tuple(runs)))
    return banks


def _state(bank: Bank, placement: Placement) -> dict[Piece, np.ndarray]:
    """Every element says which expert's it is, and where in it."""
    return {
        piece: np.array([f"{piece.key}:{piece.start + index}" for index in range(piece.numel)], dtype=object)
        for run in bank.runs
        for piece, _ in run.pieces(placement.experts_of(bank.pool_rank))
    }


@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize(("pools", "q", "replicas"), [((0,), 2, 1), ((0,), 4, 3), ((1, 2), 2, 2)])
def test_every_element_arrives(pools: tuple[int, ...], q: int, replicas: int, sharded: bool) -> None:
    group = PoolGroup(pools, 8, q, 1)
    old, new = Contiguous().place(group), Shuffled().place(group)
    banks = _banks(pools, group, replicas, sharded=sharded) + _banks((7,), PoolGroup((7,), 8, q, 1), 1, sharded=True)
    taking_part = range(q * replicas)
    writes = [expert_moves(banks, old, new, rank) for rank in taking_part]
    messages: dict[tuple[int, int], dict[int, list[Piece]]] = defaultdict(dict)
    for rank in taking_part:
        pairs = {(write.holder, write.writer) for write in writes[rank]}
        for pair in pairs:
            messages[pair][rank] = [write.piece for write in writes[rank] if (write.holder, write.writer) == pair]
        before, needed = _state(banks[rank], old), _state(banks[rank], new)
        unmoved = {key for key in (piece.key for piece in needed) if not any(w.piece.key == key for w in writes[rank])}
        assert all(piece in before for piece in needed if piece.key in unmoved)
        for piece in needed:
            mine = [write.piece for write in writes[rank] if write.writer == rank and write.piece.key == piece.key]
            arrived = [
                e for part in mine if part.start >= piece.start for e in range(part.start, part.start + part.numel)
            ]
            if piece.key not in unmoved:
                assert set(range(piece.start, piece.start + piece.numel)) <= set(arrived)
                assert len(arrived) == len(set(arrived)), "once"
        for write in writes[rank]:
            if write.holder == rank:
                assert any(
                    piece.key == write.piece.key
                    and piece.start <= write.piece.start
                    and write.piece.start + write.piece.numel <= piece.start + piece.numel
                    for piece in before
                )
    for (holder, writer), seen in messages.items():
        assert seen[holder] == seen[writer]
    if not sharded:  # each from a replica of its own
        assert all(write.holder // q == write.writer // q for of_rank in writes for write in of_rank)


def test_windows_cut_messages_into_all_their_elements() -> None:
    group = PoolGroup((0,), 8, 2, 1)
    banks = _banks((0,), group, 2, sharded=True)
    writes = expert_moves(banks, Contiguous().place(group), Shuffled().place(group), 1)
    cut = [write for first in range(0, 12, 5) for write in window(writes, first, first + 5)]
    assert max(write.piece.numel for write in cut) <= 5

    def elements(pieces: list[Piece]) -> list[tuple[str, int]]:
        return sorted((p.key, e) for p in pieces for e in range(p.start, p.start + p.numel))

    assert elements([write.piece for write in cut]) == elements([write.piece for write in writes])


def test_nothing_moves_between_equal_placements() -> None:
    group = PoolGroup((0,), 8, 2, 1)
    placement = Contiguous().place(group)
    assert expert_moves(_banks((0,), group, 2, sharded=True), placement, placement, 0) == []
