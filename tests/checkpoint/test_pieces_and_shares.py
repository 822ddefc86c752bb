"""Where pieces sit in their tensors, and who writes which of them: every element in its place, and written once."""

from __future__ import annotations

import math
import random
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipool_dist.checkpoint.pieces import Box, Piece, flat_to_boxes, whole
from unipool_dist.checkpoint.shares import Write, share_writes

SHAPES = st.lists(st.integers(1, 5), max_size=4).map(tuple)


@st.composite
def runs(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int]:
    """A shape, and a run of its flattened elements; it may be empty."""
    shape = draw(SHAPES)
    numel = math.prod(shape)
    start = draw(st.integers(0, numel))
    return shape, start, draw(st.integers(0, numel - start))


def elements(box: Box, of: np.ndarray) -> np.ndarray:
    """What numpy finds in a box, flattened."""
    return of[tuple(slice(offset, offset + size) for offset, size in zip(box.offsets, box.sizes, strict=True))].ravel()


@given(runs())
@settings(max_examples=500, deadline=None)
def test_boxes_are_the_run_in_order(run: tuple[tuple[int, ...], int, int]) -> None:
    """In order and each where ``start`` says: so they cover the run, and none overlaps another."""
    shape, start, numel = run
    boxes = flat_to_boxes(shape, start, numel)
    assert len(boxes) <= max(2 * len(shape) - 1, 1)
    done = 0
    for box in boxes:
        assert box.start == done and box.numel > 0
        found = elements(box, np.arange(math.prod(shape)).reshape(shape))
        np.testing.assert_array_equal(found, np.arange(start + done, start + done + box.numel))
        done += box.numel
    assert done == numel


def test_the_bound_on_the_number_of_boxes_is_reached() -> None:
    assert len(flat_to_boxes((3, 3, 3), 1, 25)) == 5
    assert flat_to_boxes((4, 6), 6, 12) == [Box((1, 0), (2, 6), 0)], "whole rows are one box"


@given(SHAPES.filter(len), st.data())
@settings(max_examples=200, deadline=None)
def test_parts_of_a_piece_of_a_shard_sit_where_the_whole_tensor_has_them(
    shard_shape: tuple[int, ...], data: st.DataObject
) -> None:
    margins = [data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3))) for _ in shard_shape]
    shape = tuple(before + size + after for size, (before, after) in zip(shard_shape, margins, strict=True))
    offset = tuple(before for before, _ in margins)
    tensor = np.arange(math.prod(shape)).reshape(shape)
    shard = tensor[tuple(slice(at, at + size) for at, size in zip(offset, shard_shape, strict=True))].ravel()
    cuts = sorted(data.draw(st.lists(st.integers(0, shard.size), min_size=4, max_size=4)))
    piece = Piece("w", shape, shard_shape, offset, cuts[0], cuts[3] - cuts[0], "float32")
    part = piece.part(cuts[1] - cuts[0], cuts[2] - cuts[1])
    assert part.num_bytes == 4 * (cuts[2] - cuts[1])
    for run, first, last in ((piece, cuts[0], cuts[3]), (part, cuts[1], cuts[2])):
        found = [elements(box, tensor) for box in run.boxes()]
        np.testing.assert_array_equal(np.concatenate([[], *found]), shard[first:last])
        assert [box.start for box in run.boxes()] == [int(n) for n in np.cumsum([0, *map(len, found)])[:-1]]


def test_a_part_beyond_its_piece_is_a_mistake() -> None:
    piece = whole("w", (4, 4), "float32").part(4, 8)
    for start, numel in ((-1, 2), (0, 9), (7, 2)):
        with pytest.raises(AssertionError):
            piece.part(start, numel)


@st.composite
def holdings(draw: st.DrawFn) -> list[list[Piece]]:
    """Pieces by rank, of tensors cut at random; every piece on one rank or on several."""
    num_ranks = draw(st.integers(1, 12))
    held: list[list[Piece]] = [[] for _ in range(num_ranks)]
    for number in range(draw(st.integers(1, 8))):
        shape = tuple(draw(st.lists(st.integers(1, 40), max_size=3)))
        tensor = whole(f"tensor {number}", shape, draw(st.sampled_from(["float32", "float64", "uint8", "int64"])))
        cuts = {0, tensor.numel, *draw(st.lists(st.integers(0, tensor.numel), max_size=num_ranks))}
        for first, last in zip(sorted(cuts)[:-1], sorted(cuts)[1:], strict=True):
            ranks = draw(st.sets(st.integers(0, num_ranks - 1), min_size=1, max_size=draw(st.integers(1, num_ranks))))
            for rank in ranks:
                held[rank].append(tensor.part(first, last - first))
    return held


def check_writes(held: list[list[Piece]], writes: list[Write]) -> list[int]:
    """Every element is written once, from a rank that holds it; returns the bytes that each rank writes."""
    by_key: dict[str, list[tuple[int, int]]] = defaultdict(list)
    load = [0] * len(held)
    for write in writes:
        piece = write.piece
        assert piece.numel > 0
        assert any(
            piece == other.part(piece.start - other.start, piece.numel)
            for other in held[write.holder]
            if other.key == piece.key
            and other.start <= piece.start
            and piece.start + piece.numel <= other.start + other.numel
        ), f"rank {write.holder} does not hold {piece}"
        by_key[piece.key].append((piece.start, piece.numel))
        load[write.writer] += piece.num_bytes
    sizes = {piece.key: math.prod(piece.shape) for pieces in held for piece in pieces}
    assert by_key.keys() == sizes.keys()
    for key, written in by_key.items():
        end = 0
        for start, numel in sorted(written):
            assert start == end, f"{key}: element {min(start, end)} is written twice or never"
            end = start + numel
        assert end == sizes[key]
    return load


@given(holdings())
@settings(max_examples=300, deadline=None)
def test_everything_is_written_once_and_by_all_alike(held: list[list[Piece]]) -> None:
    writes = share_writes(held)
    load = check_writes(held, writes)
    assert writes == share_writes([list(pieces) for pieces in held]), "another rank finds the same"
    mean = sum(load) / len(load)
    if mean >= 1024:  # an element has at most 8 bytes, so whatever is above can be given away
        assert max(load) <= 1.1 * mean and min(load) >= 0.9 * mean, load


def test_many_ranks_a_little_below_the_mean_take_what_one_has_too_much() -> None:
    """Each of them is within the tolerance; together they could hide a rank that writes twice as much as they do."""
    num_ranks, each = 64, 10_000
    held = [[whole(f"of rank {rank}", (each,), "uint8")] for rank in range(num_ranks)]
    held[0].append(whole("more", (each,), "uint8"))
    load = check_writes(held, share_writes(held))
    assert max(load) <= 1.1 * sum(load) / num_ranks


def test_replicas_go_to_the_rank_that_has_least() -> None:
    shared, own = whole("shared", (100, 10), "float32"), whole("own", (99, 10), "float32")
    writes = share_writes([[own, shared], [shared]])
    assert writes == [Write(own, 0, 0), Write(shared, 1, 1)], "nothing needs to be sent"


def test_an_element_that_nobody_holds_is_a_mistake() -> None:
    tensor = whole("w", (10, 10), "float32")
    with pytest.raises(AssertionError, match=r"w: 99 of \(10, 10\)"):
        share_writes([[tensor.part(0, 50)], [tensor.part(51, 49)]])


def test_rows_are_not_cut_where_they_are_small() -> None:
    """Few boxes make few records: a stack of rows is given away by the row."""
    held = [[whole("w", (1001, 8), "float32")], []]
    writes = share_writes(held)
    load = check_writes(held, writes)
    assert max(load) <= 1.05 * sum(load) / 2
    assert sum(len(write.piece.boxes()) for write in writes) == 2


def test_large_random_holdings_are_even() -> None:
    """As ZeRO leaves them: equal runs on the ranks of a stage, stages of unequal size, norms replicated."""
    draw = random.Random(3)
    for _ in range(20):
        stages, replicas = draw.randint(1, 6), draw.randint(1, 8)
        held: list[list[Piece]] = [[] for _ in range(stages * replicas)]
        for stage in range(stages):
            ranks = range(stage * replicas, (stage + 1) * replicas)
            for number in range(draw.randint(1, 9)):
                tensor = whole(f"{stage}.{number}", (draw.randint(1, 300), draw.randint(1, 64)), "float32")
                if draw.random() < 0.3:
                    for rank in ranks:
                        held[rank].append(tensor)
                    continue
                cuts = [tensor.numel * i // replicas for i in range(replicas + 1)]
                for rank, first, last in zip(ranks, cuts[:-1], cuts[1:], strict=True):
                    if first < last:
                        held[rank].append(tensor.part(first, last - first))
        load = check_writes(held, share_writes(held))
        assert max(load) <= 1.1 * sum(load) / len(load), load
