"""Cut tensors into files of about equal size. Pure arithmetic, no torch.

A tensor is cut between rows of its first dimension only, so each piece is one box of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from unipool_dist.checkpoint.pieces import Piece

BOX_BYTES = 1600
"""Bytes of a box in a file in addition to its elements, as torch.save writes it."""

_SMALL = 0.02
"""A piece below this share of a file is not cut."""


def cut_into_files(tensors: Sequence[Piece], num_files: int) -> list[list[Piece]]:
    """Deal whole ``tensors`` out to ``num_files`` files in their order, cutting those at the ends of files."""
    files: list[list[Piece]] = [[] for _ in range(num_files)]
    rest = list(reversed(tensors))
    left = sum(_cost(piece) for piece in rest)
    for number, file in enumerate(files):
        after = num_files - number - 1  # at the end of each file but the last a cut makes a box more
        target = room = (left + after * BOX_BYTES) / (after + 1)
        while rest:
            piece = rest.pop()
            rows = _fitting_rows(piece, room, target) if after else piece.shard_shape[0]
            if rows == 0:
                rest.append(piece)
                break
            if rows < piece.shard_shape[0]:
                piece, remainder = _split(piece, rows)
                rest.append(remainder)
                left += BOX_BYTES
            file.append(piece)
            room -= _cost(piece)
            left -= _cost(piece)
    return files


def _fitting_rows(piece: Piece, room: float, target: float) -> int:
    """Return how many rows of ``piece`` to put into a file of ``target`` bytes that has ``room`` left."""
    rows = piece.shard_shape[0]
    if _cost(piece) <= room:
        return rows
    if _cost(piece) <= _SMALL * target:
        return rows if room >= _cost(piece) / 2 else 0
    return max(0, int((room - BOX_BYTES) / (piece.num_bytes / rows)))


def _cost(piece: Piece) -> int:
    return piece.num_bytes + BOX_BYTES


def _split(piece: Piece, rows: int) -> tuple[Piece, Piece]:
    """Split off the first ``rows`` rows of a box."""
    first, shape = piece.shard_offset[0], piece.shard_shape
    assert 0 < rows < shape[0]
    return _rows(piece, first, rows), _rows(piece, first + rows, shape[0] - rows)


def _rows(piece: Piece, first: int, count: int) -> Piece:
    inner = piece.shard_shape[1:]
    return replace(
        piece,
        shard_shape=(count, *inner),
        shard_offset=(first, *piece.shard_offset[1:]),
        numel=count * math.prod(inner),
    )
