"""Orders of rows in blocks: permutations, inverse to each other, and what naive loops say."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from unipool_dist.pool.rows import Counts, expert_major_order, rows_of_sources, source_major_order

CPU = torch.device("cpu")
counts_arrays = arrays(np.int64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, 5))


def _tags(counts_Se: Counts) -> np.ndarray:
    """[R, 3] (source, expert, number within the block) of rows in (source, expert) order."""
    tags = [(s, e, i) for (s, e), count in np.ndenumerate(counts_Se) for i in range(count)]
    return np.array(tags, dtype=np.int64).reshape(-1, 3)


def _sorted_by_expert(tags: np.ndarray) -> list[list[int]]:
    return sorted(tags.tolist(), key=lambda tag: (tag[1], tag[0], tag[2]))


@given(counts_arrays)
def test_expert_major_order_sorts_by_expert_then_source(counts_Se: Counts) -> None:
    tags = _tags(counts_Se)
    assert tags[expert_major_order(counts_Se, CPU).numpy()].tolist() == _sorted_by_expert(tags)


@given(counts_arrays)
def test_the_two_orders_are_inverse(counts_Se: Counts) -> None:
    there, back = expert_major_order(counts_Se, CPU), source_major_order(counts_Se, CPU)
    everything = list(range(int(counts_Se.sum())))
    assert there[back].tolist() == everything
    assert back[there].tolist() == everything


@given(counts_arrays, st.data())
def test_rows_of_sources_are_those_of_these_sources_in_order(counts_Se: Counts, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(counts_Se)))
    last = data.draw(st.integers(first, len(counts_Se)))
    in_expert_order = _sorted_by_expert(_tags(counts_Se))
    expected = [tag for tag in in_expert_order if first <= tag[0] < last]
    assert [in_expert_order[i] for i in rows_of_sources(counts_Se, first, last, CPU).tolist()] == expected


@given(counts_arrays, st.integers(1, 6))
def test_blocks_of_sources_cover_every_row_once(counts_Se: Counts, block: int) -> None:
    parts = [
        rows_of_sources(counts_Se, s, min(s + block, len(counts_Se)), CPU) for s in range(0, len(counts_Se), block)
    ]
    assert sorted(torch.cat(parts).tolist()) == list(range(int(counts_Se.sum())))
