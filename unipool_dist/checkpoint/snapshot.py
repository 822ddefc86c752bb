"""A copy of a rank's share of the state in host memory, so that training can continue while the copy is written."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from unipool_dist.checkpoint.pieces import Piece
from unipool_dist.checkpoint.state import Held


class Snapshot:
    """Copies of ``parts``, in memory allocated once and reused; pinned if they are on a GPU.

    Costs the bytes of the parts in host memory for as long as it exists. A copy is ``begin`` followed by ``finish``,
    which may be called by another thread; between the two the parts must not change. From a GPU the copy uses its own
    stream, parallel to what the GPU does next.
    """

    def __init__(self, parts: list[Held]) -> None:
        self._sources = {part.piece: part.values for part in parts}
        self._copies: dict[Piece, Tensor] = {}
        self._runs: list[tuple[Tensor, Tensor]] = []
        cuda = next((part.flat.device for part in parts if part.flat.is_cuda), None)
        self._stream = torch.cuda.Stream(cuda) if cuda is not None else None
        by_dtype: dict[torch.dtype, list[Held]] = defaultdict(list)
        for part in parts:
            by_dtype[part.flat.dtype].append(part)
        for dtype, members in by_dtype.items():
            self._lay_out(dtype, members)

    @property
    def on_gpu(self) -> bool:
        """Whether any of the parts is on a GPU."""
        return self._stream is not None

    def begin(self) -> None:
        """Begin a copy, overwriting an earlier one. From now on the parts must not change."""
        if self._stream is None:
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            self._copy()

    def finish(self) -> None:
        """Finish the copy. Afterwards the parts may change."""
        if self._stream is None:
            self._copy()
        else:
            self._stream.synchronize()

    def values(self, piece: Piece) -> Tensor:
        """Return the copied elements of one of the parts."""
        return self._copies[piece]

    def originals(self, piece: Piece) -> Tensor:
        """Return the elements themselves, which training changes."""
        return self._sources[piece]

    def _copy(self) -> None:
        for source, copy in self._runs:
            copy.copy_(source, non_blocking=True)

    def _lay_out(self, dtype: torch.dtype, parts: list[Held]) -> None:
        """Lay out parts that are neighbours in memory as neighbours in the copy, to copy them as one."""
        buffer = torch.zeros(sum(part.piece.numel for part in parts), dtype=dtype, pin_memory=self.on_gpu)
        runs: list[tuple[Tensor, int, int, int]] = []  # source, its first and last element, where they go
        end = 0
        for part in sorted(parts, key=lambda part: (part.flat.data_ptr(), part.start)):
            numel = part.piece.numel
            self._copies[part.piece] = buffer.narrow(0, end, numel)
            if runs and runs[-1][0] is part.flat and runs[-1][2] == part.start:
                flat, first, _, to = runs.pop()
            else:
                flat, first, to = part.flat, part.start, end
            runs.append((flat, first, part.start + numel, to))
            end += numel
        self._runs += [(flat[first:last], buffer.narrow(0, to, last - first)) for flat, first, last, to in runs]
