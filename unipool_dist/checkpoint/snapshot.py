"""A copy of a rank's share of the state in host memory, so that training can go on while the copy is written."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from unipool_dist.checkpoint.pieces import Piece
from unipool_dist.checkpoint.state import Held


class Snapshot:
    """Copies of ``parts``, in memory allocated once and used again; pinned if they are on a GPU.

    Costs the bytes of the parts in host memory for as long as it exists.
    """

    def __init__(self, parts: list[Held]) -> None:
        sizes: dict[torch.dtype, int] = defaultdict(int)
        for part in parts:
            sizes[part.flat.dtype] += part.piece.numel
        self.on_gpu = on_gpu = any(part.flat.is_cuda for part in parts)
        buffers = {dtype: torch.zeros(size, dtype=dtype, pin_memory=on_gpu) for dtype, size in sizes.items()}
        ends: dict[torch.dtype, int] = defaultdict(int)
        self._sources = {part.piece: part.values for part in parts}
        self._copies: dict[Piece, Tensor] = {}
        for part in parts:
            dtype = part.flat.dtype
            self._copies[part.piece] = buffers[dtype].narrow(0, ends[dtype], part.piece.numel)
            ends[dtype] += part.piece.numel

    def take(self) -> None:
        """Copy everything. What an earlier call copied is gone."""
        for source, copy in zip(self._sources.values(), self._copies.values(), strict=True):
            copy.copy_(source, non_blocking=source.is_cuda)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def values(self, piece: Piece) -> Tensor:
        """The copied elements of one of the parts."""
        return self._copies[piece]

    def originals(self, piece: Piece) -> Tensor:
        """The elements themselves, which training changes."""
        return self._sources[piece]
