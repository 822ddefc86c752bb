"""A copy of a rank's state in host memory, so that training can go on while the copy is written."""

from __future__ import annotations

import torch
from torch import Tensor

from unipool_dist.checkpoint.pieces import Piece
from unipool_dist.checkpoint.state import Held


class Snapshot:
    """Copies of the tensors behind ``held``, in buffers made once and used again; pinned if the tensors are on a GPU.

    Costs the bytes of the state in host memory for as long as it exists.
    """

    def __init__(self, held: list[Held]) -> None:
        sources = {item.flat.data_ptr(): item.flat for item in held}
        on_gpu = any(flat.is_cuda for flat in sources.values())
        copies = {
            pointer: torch.zeros(flat.shape, dtype=flat.dtype, pin_memory=on_gpu) for pointer, flat in sources.items()
        }
        self._pairs = [(flat, copies[pointer]) for pointer, flat in sources.items()]
        self._held: dict[str, list[tuple[Piece, Tensor]]] = {}
        for item in held:
            values = copies[item.flat.data_ptr()].narrow(0, item.start, item.piece.numel)
            self._held.setdefault(item.piece.key, []).append((item.piece, values))

    def take(self) -> None:
        """Copy everything. What an earlier call copied is gone."""
        for source, copy in self._pairs:
            copy.copy_(source, non_blocking=source.is_cuda)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def values(self, part: Piece) -> Tensor:
        """The copied elements of a piece that is held, or of a part of one."""
        for piece, values in self._held[part.key]:
            if piece.start <= part.start and part.start + part.numel <= piece.start + piece.numel:
                return values.narrow(0, part.start - piece.start, part.numel)
        raise AssertionError(f"{part} is not held here")
