"""How counts and rows get from rank to rank of a pool group.

Shapes: S ranks of the pool group, e experts of a rank, R rows, D hidden size.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Transport(Protocol):
    """Moves counts and rows within one pool group. All ranks call the same methods in the same order."""

    @property
    def size(self) -> int:
        """Ranks of the pool group."""

    @property
    def rank(self) -> int:
        """This rank's place among them."""

    def swap_counts(self, outgoing_Se: Tensor) -> Tensor:
        """Send row s of ``outgoing_Se`` to every rank s; return what they sent here, [S, e] by sender."""

    def swap_rows(self, rows_RD: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Send ``sent[s]`` rows to every rank s, in order; return what they sent here, ``received[s]`` rows each."""


class GroupTransport:
    """All-to-all over a process group; a group of one moves nothing.

    Collectives: one all-to-all over ``group`` in each method.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self.size, self.rank = group.size(), group.rank()

    def swap_counts(self, outgoing_Se: Tensor) -> Tensor:
        if self.size == 1:
            return outgoing_Se
        incoming_Se = torch.empty_like(outgoing_Se)
        dist.all_to_all_single(incoming_Se, outgoing_Se, group=self._group)
        return incoming_Se

    def swap_rows(self, rows_RD: Tensor, sent: list[int], received: list[int]) -> Tensor:
        if self.size == 1:
            return rows_RD
        out_RD = rows_RD.new_empty(sum(received), rows_RD.shape[1])
        dist.all_to_all_single(out_RD, rows_RD.contiguous(), received, sent, group=self._group)
        return out_RD
