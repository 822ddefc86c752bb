"""Cutting tensors into files: every element once, and files of about equal size."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from unipool_dist.checkpoint.offline.cuts import BOX_BYTES, cut_into_files
from unipool_dist.checkpoint.pieces import Piece, whole

shapes = st.one_of(
    st.tuples(st.integers(1, 5000)),
    st.tuples(st.integers(1, 400), st.integers(1, 64)),
    st.tuples(st.integers(1, 60), st.integers(1, 12), st.integers(1, 12)),
)


def tensors_of(shapes_: list[tuple[int, ...]]) -> list[Piece]:
    return [whole(f"t{i}", shape, "uint8" if i % 5 == 4 else "float32") for i, shape in enumerate(shapes_)]


@given(st.lists(shapes, min_size=1, max_size=30), st.integers(1, 9))
@settings(deadline=None)
def test_every_element_is_in_one_file_once(shapes_: list[tuple[int, ...]], num_files: int) -> None:
    tensors = tensors_of(shapes_)
    files = cut_into_files(tensors, num_files)
    assert len(files) == num_files
    written = {piece.key: np.zeros(piece.shape, dtype=int) for piece in tensors}
    for file in files:
        for piece in file:
            (box,) = piece.boxes()
            assert (box.offsets, box.sizes, box.start) == (piece.shard_offset, piece.shard_shape, 0)
            written[piece.key][tuple(slice(o, o + s) for o, s in zip(box.offsets, box.sizes, strict=True))] += 1
    assert all((count == 1).all() for count in written.values())


@given(st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 256)), min_size=1, max_size=30), st.integers(1, 16))
@settings(deadline=None)
def test_files_are_equal_to_within_a_tenth(shapes_: list[tuple[int, ...]], num_files: int) -> None:
    tensors = tensors_of(shapes_)
    total = sum(piece.num_bytes + BOX_BYTES for piece in tensors)
    assume(total / num_files >= 64 << 10)
    sizes = [sum(piece.num_bytes + BOX_BYTES for piece in file) for file in cut_into_files(tensors, num_files)]
    assert max(sizes) <= 1.1 * min(sizes), sizes
