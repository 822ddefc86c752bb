"""Where a rank's piece of a tensor is in the whole tensor. Pure arithmetic, no torch.

ZeRO cuts the flattened parameters of a rank into equal runs of elements, so what a rank holds of a tensor is a run of
the flattened shard that tensor parallelism has left it. On disk a tensor is made of boxes in its own coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Box:
    """A hyper-rectangle of a tensor; its elements are those from ``start`` on in the piece it was made of."""

    offsets: Shape
    sizes: Shape
    start: int

    @property
    def numel(self) -> int:
        return math.prod(self.sizes)


@dataclass(frozen=True)
class Piece:
    """Elements ``start`` to ``start + numel`` of a flattened shard of the tensor called ``key``.

    The shard has ``shard_shape`` and sits at ``shard_offset`` in the tensor, which has ``shape``.
    """

    key: str
    shape: Shape
    shard_shape: Shape
    shard_offset: Shape
    start: int
    numel: int
    dtype: str  # as numpy and torch call it

    @property
    def itemsize(self) -> int:
        return np.dtype(self.dtype).itemsize

    @property
    def num_bytes(self) -> int:
        return self.numel * self.itemsize

    def part(self, start: int, numel: int) -> Piece:
        """Return ``numel`` elements of this piece, from its element ``start`` on."""
        assert start >= 0 and start + numel <= self.numel
        return replace(self, start=self.start + start, numel=numel)

    def boxes(self) -> list[Box]:
        """Return the piece as boxes in the coordinates of the whole tensor: at most ``2 * dims - 1`` of them."""
        return [
            Box(
                tuple(inner + outer for inner, outer in zip(box.offsets, self.shard_offset, strict=True)),
                box.sizes,
                box.start,
            )
            for box in flat_to_boxes(self.shard_shape, self.start, self.numel)
        ]


def whole(key: str, shape: Shape, dtype: str) -> Piece:
    """Return all of a tensor as one piece."""
    return Piece(key, shape, shape, (0,) * len(shape), 0, math.prod(shape), dtype)


def flat_to_boxes(shape: Shape, start: int, numel: int) -> list[Box]:
    """Return elements ``start`` to ``start + numel`` of a row-major tensor as boxes, in the order of the elements."""
    return list(_boxes(shape, start, numel, 0))


def _boxes(shape: Shape, start: int, numel: int, done: int) -> Iterator[Box]:
    if numel == 0:
        return
    if len(shape) <= 1:
        yield Box((start,), (numel,), done) if shape else Box((), (), done)
        return
    row = math.prod(shape[1:])
    end = start + numel
    first_whole, last_whole = -(-start // row), end // row
    if first_whole > last_whole:  # inside one row
        yield from _in_row(shape, start, numel, done)
        return
    head = first_whole * row - start
    yield from _in_row(shape, start, head, done)
    if last_whole > first_whole:
        inner = (0,) * (len(shape) - 1)
        yield Box((first_whole, *inner), (last_whole - first_whole, *shape[1:]), done + head)
    tail = end - last_whole * row
    yield from _in_row(shape, last_whole * row, tail, done + numel - tail)


def _in_row(shape: Shape, start: int, numel: int, done: int) -> Iterator[Box]:
    """Yield boxes for part of one row of the first dimension."""
    if numel:
        index, within = divmod(start, math.prod(shape[1:]))
        for box in _boxes(shape[1:], within, numel, done):
            yield Box((index, *box.offsets), (1, *box.sizes), box.start)
