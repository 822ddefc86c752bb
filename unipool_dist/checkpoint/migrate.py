"""Move experts to other ranks between two steps.

This is a checkpoint saved under one placement and loaded under another, without the disk.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.checkpoint.moves import Bank, expert_moves, window
from unipool_dist.checkpoint.pieces import Piece
from unipool_dist.checkpoint.state import Held, expert_run
from unipool_dist.checkpoint.transfer import collect_pieces, receive_buffers
from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.engine.optim.pooled import PooledOptimizer
from unipool_dist.engine.optim.sharded import StateShard
from unipool_dist.model.assembly import PooledModel
from unipool_dist.model.inventory import split_name
from unipool_dist.pool.placement import Placement

_FP32_BYTES = 4
CHUNK_BYTES = 64 << 20
"""What a rank receives at a time, at most."""


@torch.no_grad()
def migrate(
    new: Placement,
    model: PooledModel,
    optimizer: PooledOptimizer,
    groups: ParallelGroups,
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> None:
    """Let ``new`` be the placement of this rank's pool group: experts move with weights, masters and states.

    Called by all ranks between two steps; groups that own the same pools get the same placement. Nothing that the
    model computes changes but the order of a few sums (docs/architecture.md). It takes ``chunk_bytes`` of memory for
    what is received, and as much again for what moves within the rank.

    Collectives: over the world one all_gather_object, then for each kind of state, parameter and chunk one batch of
    point-to-point messages among ranks whose groups own the same pools; all-gathers over the expert-data-parallel
    group. A checkpoint may be written meanwhile: that has a group of its own.

    Raises:
        ConfigError: ``new`` is not a placement of this rank's pool group.
    """
    model.pool_group.check(new, "a placement to migrate to")
    old = model.placement
    optimizer.before_change()
    shards = optimizer.expert_shards()
    writes = expert_moves(_all_banks(shards, groups), old, new, groups.rank)
    for kind in shards[0].flats if shards else ():
        source = _Held(shards, old.experts_of(groups.pool_rank), kind)
        target = _Held(shards, new.experts_of(groups.pool_rank), kind)
        for spec in model.inventory.expert:
            of_parameter = [write for write in writes if split_name(write.piece.key)[2] == spec.name]
            # The same elements of all experts at a time: these change places among themselves, so that what is
            # overwritten has been sent.
            step = max(1, chunk_bytes // (old.experts_per_rank * _FP32_BYTES))
            for first in range(0, spec.numel, step):
                now = window(of_parameter, first, first + step)
                received = collect_pieces(
                    now, source.copied, receive_buffers(now, groups.rank, groups.device), groups.world
                )
                for piece, values in received:
                    target.values(piece).copy_(values)
    model.place(new)
    optimizer.finish_moving_experts()


class _Held:
    """One kind of state of the experts on this rank, under one placement."""

    def __init__(self, shards: list[StateShard], experts: tuple[int, ...], kind: str) -> None:
        self._by_key: dict[str, list[Held]] = defaultdict(list)
        for shard in shards:
            for piece, place in expert_run(shard).pieces(experts):
                self._by_key[piece.key].append(Held(piece, shard.flats[kind], shard.flat_start + place))

    def values(self, piece: Piece) -> Tensor:
        """Return the elements of ``piece``, as a view."""
        return next(item for item in self._by_key[piece.key] if item.holds(piece)).part(piece).values

    def copied(self, piece: Piece) -> Tensor:
        """Return a copy of them.

        What moves within the rank may be overwritten by another expert before it is read.
        """
        return self.values(piece).clone()


def _all_banks(shards: list[StateShard], groups: ParallelGroups) -> list[Bank]:
    banks: list[Any] = [None] * groups.world.size()
    dist.all_gather_object(banks, Bank(groups.pools, groups.pool_rank, tuple(map(expert_run, shards))), groups.world)
    return banks
