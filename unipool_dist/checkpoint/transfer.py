"""Send pieces from the ranks that hold them to the ranks that write them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.checkpoint.pieces import Piece
from unipool_dist.checkpoint.planners import Filled
from unipool_dist.checkpoint.shares import Write

Buffers = dict[Piece, Tensor]


def receive_buffers(writes: list[Write], rank: int) -> Buffers:
    """Allocate memory for what ``rank`` writes and another holds; once, as a save should not fail for lack of it."""
    return {
        write.piece: torch.empty(write.piece.numel, dtype=getattr(torch, write.piece.dtype))
        for write in writes
        if write.writer == rank != write.holder
    }


def collect_pieces(
    writes: list[Write], values: Callable[[Piece], Tensor], buffers: Buffers, group: dist.ProcessGroup
) -> Filled:
    """Return what this rank is to write, on the CPU.

    Args:
        writes: all ranks' writes, in the same order everywhere; ranks are those of ``group``.
        values: returns the elements of a piece that this rank holds, on the CPU.
        buffers: those of :func:`receive_buffers`.

    Collectives: point-to-point messages between holders and writers in ``group``, one for each piece that moves.
    """
    rank = group.rank()
    mine: Filled = []
    pending = []
    for tag, write in enumerate(writes):
        if write.writer == rank:
            if write.holder == rank:
                mine.append((write.piece, values(write.piece)))
            else:
                received = buffers[write.piece]
                pending.append(dist.irecv(received, group=group, group_src=write.holder, tag=tag))
                mine.append((write.piece, received))
        elif write.holder == rank:
            pending.append(dist.isend(values(write.piece), group=group, group_dst=write.writer, tag=tag))
    for work in pending:
        assert work is not None
        work.wait()
    return mine
