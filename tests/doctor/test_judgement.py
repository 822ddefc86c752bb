"""Who is slow, from figures alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipool_dist.base.units import named_ranges
from unipool_dist.doctor.judgement import (
    bus_factor,
    clock_offset,
    ring_rounds,
    slow,
    slow_members_and_pairs,
    slow_nodes_and_ranks,
)
from unipool_dist.doctor.roster import Roster

FACTOR = 1.5


def test_slow_is_above_the_factor_times_the_median() -> None:
    assert slow({"a": 1.0, "b": 1.1, "c": 1.6, "d": 0.9}, FACTOR) == pytest.approx({"c": 1.6})
    assert slow({"a": 1.0, "b": 1.49}, FACTOR) == {}
    assert slow({"a": 1.0, "b": 3.0}, FACTOR) == {"b": 3.0}, "one slow node out of two is found"
    assert slow({}, FACTOR) == {}


@given(st.lists(st.floats(1.0, 1.4), min_size=2, max_size=12), st.integers(0, 11), st.floats(3.0, 100.0))
def test_the_one_slow_member_is_named_and_nobody_else(others: list[float], place: int, ratio: float) -> None:
    seconds = [*others[: place % len(others)], ratio, *others[place % len(others) :]]
    assert list(slow(dict(enumerate(seconds)), FACTOR)) == [place % len(others)]


def test_a_node_is_slow_as_a_whole_or_one_of_its_ranks_is() -> None:
    roster = Roster(["a", "a", "b", "b", "c", "c"])
    assert slow_nodes_and_ranks([1, 1, 2, 2, 1, 1], roster, FACTOR) == ({"b": 2.0}, {})
    assert slow_nodes_and_ranks([1, 1, 1, 1, 1, 1.8], roster, FACTOR) == ({}, {5: 1.8})


@pytest.mark.parametrize("num_members", range(2, 12))
def test_every_neighbour_in_the_ring_is_met_once_and_nobody_has_two_partners(num_members: int) -> None:
    rounds = ring_rounds(num_members)
    pairs = [pair for pairs in rounds for pair in pairs]
    expected = {frozenset((i, (i + 1) % num_members)) for i in range(num_members)}
    assert {frozenset(pair) for pair in pairs} == expected and len(pairs) == len(expected)
    for one_round in rounds:
        members = [member for pair in one_round for member in pair]
        assert len(members) == len(set(members))


@pytest.mark.parametrize("num_members", range(3, 12))
def test_the_common_member_of_slow_links_is_named(num_members: int) -> None:
    pairs = [pair for pairs in ring_rounds(num_members) for pair in pairs]
    for culprit in range(num_members):
        seconds = {pair: 4.0 if culprit in pair else 1.0 for pair in pairs}
        members, links = slow_members_and_pairs(seconds, FACTOR)
        assert (list(members), links) == ([culprit], {})


def test_a_slow_link_between_good_members_is_named_by_itself() -> None:
    seconds = {(0, 1): 1.0, (1, 2): 4.0, (2, 3): 1.0, (3, 0): 1.1}
    assert slow_members_and_pairs(seconds, FACTOR) == ({}, {(1, 2): 4.0})
    assert slow_members_and_pairs({(0, 1): 9.0}, FACTOR) == ({}, {}), "there is nothing to compare one link with"


@given(st.floats(-1e3, 1e3), st.lists(st.tuples(st.floats(1e-6, 1.0), st.floats(0, 1)), min_size=1, max_size=9))
def test_a_clock_is_as_far_off_as_said(offset: float, trips: list[tuple[float, float]]) -> None:
    """Whatever part of a round trip the way there takes."""
    samples = [(1e6 + i, 1e6 + i + there * took + offset, 1e6 + i + took) for i, (took, there) in enumerate(trips)]
    found, uncertainty = clock_offset(samples)
    assert abs(found - offset) <= uncertainty + 1e-6
    assert uncertainty <= min(took for took, _ in trips) / 2 + 1e-6


def test_bus_bandwidth_is_that_of_nccl_tests() -> None:
    assert bus_factor("all-reduce", 8) == pytest.approx(1.75)
    assert bus_factor("all-to-all", 8) == pytest.approx(0.875)
    assert bus_factor("all-reduce", 2) == 1
    assert math.isclose(bus_factor("send/recv", 5), 1)


def test_ranks_and_nodes_have_short_names() -> None:
    roster = Roster(["a", "a", "b", "b", "a"])
    assert named_ranges("rank", [3]) == "rank 3" and named_ranges("rank", [6, 0, 1, 2]) == "ranks 0-2, 6"
    assert roster.name([2, 3]) == "b (ranks 2-3)"
    assert roster.name([3, 0, 1]) == "ranks 0-1 (a), rank 3 (b)"
    assert roster.leaders == (0, 2) and roster.ranks_of("a") == [0, 1, 4]
