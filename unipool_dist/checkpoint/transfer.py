"""Send pieces from the ranks that hold them to the ranks that write them, to disk or into their own state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.checkpoint.pieces import Piece
from unipool_dist.checkpoint.planners import Filled
from unipool_dist.checkpoint.shares import Write

Buffers = dict[Piece, Tensor]


def receive_buffers(writes: list[Write], rank: int, device: torch.device | str = "cpu") -> Buffers:
    """Allocate memory for what ``rank`` writes and another holds; once, as a save should not fail for lack of it."""
    return {
        write.piece: torch.empty(write.piece.numel, dtype=getattr(torch, write.piece.dtype), device=device)
        for write in writes
        if write.writer == rank != write.holder
    }


def collect_pieces(
    writes: list[Write], values: Callable[[Piece], Tensor], buffers: Buffers, group: dist.ProcessGroup
) -> Filled:
    """Return what this rank is to write, on the device of ``buffers``.

    Args:
        writes: at least those that this rank takes part in; of any two ranks, in the same order on both. Ranks are
            those of ``group``.
        values: returns the elements of a piece that this rank holds.
        buffers: those of :func:`receive_buffers`.

    Collectives: point-to-point messages between holders and writers in ``group``, one for each piece that moves.
    """
    rank = group.rank()
    mine: Filled = []
    messages: list[dist.P2POp] = []
    sent: dict[tuple[int, int], int] = defaultdict(int)
    for write in writes:
        tag = sent[write.holder, write.writer]
        sent[write.holder, write.writer] += 1
        if write.writer == rank:
            if write.holder == rank:
                mine.append((write.piece, values(write.piece)))
            else:
                received = buffers[write.piece]
                messages.append(dist.P2POp(dist.irecv, received, group=group, tag=tag, group_peer=write.holder))
                mine.append((write.piece, received))
        elif write.holder == rank:
            elements = values(write.piece)
            messages.append(dist.P2POp(dist.isend, elements, group=group, tag=tag, group_peer=write.writer))
    # Together, as NCCL would otherwise wait for each message in turn, and two ranks for each other.
    for work in dist.batch_isend_irecv(messages) if messages else ():
        work.wait()
    return mine
