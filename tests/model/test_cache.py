"""Attention with keys and values kept is causal attention over the whole row, whatever the rows and their lengths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unipool_dist.model.attention import causal_attention
from unipool_dist.model.cache import KeyValueCache
from unipool_dist.model.rotary import RotaryTable

LAYERS, GROUPS, HEADS, WIDTH, LENGTH = 2, 2, 3, 8, 24
ROTARY = RotaryTable(WIDTH, LENGTH, 10_000.0)


def row(tokens: int) -> Tensor:
    """Queries, key and value of a row, before rotation: [layers, g, r + 2, s, d]."""
    return torch.randn(LAYERS, GROUPS, HEADS + 2, tokens, WIDTH)


def whole(qkv: Tensor) -> Tensor:
    """What a row attends to by itself: [layers, g, r, s, d]."""
    out = []
    for layer in qkv:
        rotated, value = ROTARY.rotate(layer[:, :-1]), layer[:, -1]
        attended = causal_attention(rotated[None, :, :-1], rotated[None, :, -1], value[None])
        out.append(attended[0].unflatten(0, (GROUPS, HEADS)))
    return torch.stack(out)


def run(cache: KeyValueCache, rows: list[Tensor], padded: int) -> list[Tensor]:
    """What the next tokens of each row attend to; all are padded to ``padded`` of them."""
    batch = torch.full((LAYERS, GROUPS, HEADS + 2, len(rows), padded, WIDTH), 1e3)  # padding that would be noticed
    for place, each in enumerate(rows):
        batch[:, :, :, place, : each.shape[3]] = each
    out = []
    for layer, scope in zip(batch, cache.scopes(ROTARY, batch, padded), strict=True):
        assert scope.within is not None
        rotated, value = scope.rotation(layer[:, :-1]), layer[:, -1]
        out.append(scope.within(rotated[:, :-1], rotated[:, -1], value))
    found = torch.stack(out)
    for place, each in enumerate(rows):
        cache.hold(place, cache.filled[place] + each.shape[3])
    return [found[:, :, :, place, : each.shape[3]] for place, each in enumerate(rows)]


def empty(rows: int) -> KeyValueCache:
    return KeyValueCache.empty(LAYERS, GROUPS, rows, LENGTH + 3, WIDTH, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("sizes", [[(5, 1, 1, 4), (2, 3, 1, 1)], [(7, 1, 16)], [(1, 1), (9, 9), (LENGTH - 7, 1)]])
def test_rows_attend_as_if_they_were_run_whole_and_alone(sizes: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    rows = [row(sum(each)) for each in sizes]
    cache = empty(len(rows))
    found: list[list[Tensor]] = [[] for _ in rows]
    for turn in range(len(sizes[0])):
        new = [
            each[:, :, :, held : held + size[turn]] for each, held, size in zip(rows, cache.filled, sizes, strict=True)
        ]
        for place, attended in enumerate(run(cache, new, max(each.shape[3] for each in new) + 1)):
            found[place].append(attended)
    for place, each in enumerate(rows):
        torch.testing.assert_close(torch.cat(found[place], dim=3), whole(each), atol=1e-5, rtol=1e-5)


def test_a_row_that_is_dropped_changes_nothing_for_the_others() -> None:
    torch.manual_seed(1)
    rows = [row(size) for size in (4, 9, 6)]
    cache = empty(3)
    run(cache, [each[:, :, :, :-1] for each in rows], 8)
    cache.drop(0)  # the last takes its place
    assert cache.filled == [5, 8]
    for attended, each in zip(run(cache, [rows[2][:, :, :, -1:], rows[1][:, :, :, -1:]], 1), rows[:0:-1], strict=True):
        torch.testing.assert_close(attended, whole(each)[:, :, :, -1:], atol=1e-5, rtol=1e-5)
    cache.drop(1)
    assert cache.filled == [6]


def test_a_part_writes_into_the_whole() -> None:
    torch.manual_seed(2)
    rows = [row(5), row(3)]
    cache = empty(2)
    for place, each in enumerate(rows):
        run(cache.part(slice(place, place + 1)), [each[:, :, :, :-1]], 5)
        cache.hold(place, each.shape[3] - 1)
    for attended, each in zip(run(cache, [each[:, :, :, -1:] for each in rows], 1), rows, strict=True):
        torch.testing.assert_close(attended, whole(each)[:, :, :, -1:], atol=1e-5, rtol=1e-5)
