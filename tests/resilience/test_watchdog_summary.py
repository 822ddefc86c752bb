"""From made-up reports: which ranks differ, and how it is said."""

from __future__ import annotations

from typing import Any

import pytest

from unipool_dist.base.units import as_ranges, from_ranges
from unipool_dist.resilience.collectives import Collective, entered, from_traces, last_of
from unipool_dist.resilience.collectives import Group as KnownGroup
from unipool_dist.resilience.watchdog_report import Report
from unipool_dist.resilience.watchdog_summary import MAX_LINES, differing_ranks, summarize


def in_collective(
    rank: int, number: int, members: str, operation: str = "all_reduce", group: str = "0", name: str = "world"
) -> Report:
    collective = Collective(group, name, operation, number, completed=False, members=members)
    return Report(
        rank, f"node{rank // 8}", 1000 + rank, 7, "counting", 9.0, "a.py:1 wait", collective, False, {group: number}
    )


def in_python(rank: int, last: int, members: str, place: str = "data.py:12 read", step: int = 7) -> Report:
    collective = Collective("0", "world", "all_reduce", last, completed=True, members=members)
    return Report(rank, "node", 1000 + rank, step, "reading", 9.0 + rank, place, collective, False, {"0": last})


def in_send(rank: int, doing: str) -> Report:
    collective = Collective("0", "world", "all_reduce", 5, completed=True, members="0-3")
    return Report(rank, "node", 1000 + rank, 7, doing, 9.0, "p2p.py:1 wait", collective, True, {"0": 5})


def test_a_rank_in_python_among_512_is_named_with_its_place_and_how_far_it_is_behind() -> None:
    reports = {rank: in_collective(rank, 88, "0-511") for rank in range(512) if rank != 7}
    reports[7] = in_python(7, 86, "0-511")
    lines = summarize(reports, {})
    assert lines == [
        "the run makes no progress in step 7; rank 7 differs",
        "rank 7 is not in a collective but at data.py:12 read; reading; last completed: all_reduce #86 of world "
        "(ranks 0-511); 2 behind in world",
        "ranks 0-6,8-511 wait in all_reduce #88 of world (ranks 0-511), which rank 7 has not entered",
    ]


def test_ranks_that_do_not_answer_are_named_with_what_is_known_of_them() -> None:
    silent = dict.fromkeys(range(24, 32), "nothing answers on its host node3") | {3: "process 5 is stopped"}
    reports = {rank: in_collective(rank, 88, "0-511") for rank in range(512) if rank not in silent}
    lines = summarize(reports, silent)
    assert lines == [
        "the run makes no progress in step 7; ranks 3,24-31 differ",
        "rank 3 did not answer: process 5 is stopped",
        "ranks 24-31 did not answer: nothing answers on its host node3",
        "ranks 0-2,4-23,32-511 wait in all_reduce #88 of world (ranks 0-511), which ranks 3,24-31 have not entered",
    ]


def test_another_operation_under_the_same_number_differs() -> None:
    reports = {rank: in_collective(rank, 30, "0-3") for rank in (0, 1, 3)}
    reports[2] = in_collective(2, 30, "0-3", operation="barrier")
    assert differing_ranks(reports, ()) == {2}
    lines = summarize(reports, {})
    assert lines[1:] == [
        "ranks 0-1,3 wait in all_reduce #30 of world (ranks 0-3), which rank 2 has not entered",
        "rank 2 waits in barrier #30 of world (ranks 0-3), which ranks 0-1,3 have not entered",
    ]


def test_a_collective_of_another_group_differs() -> None:
    reports = {rank: in_collective(rank, 30, "0-3") for rank in (0, 1, 3)}
    reports[2] = in_collective(2, 9, "2-3", group="5", name="pool")
    assert differing_ranks(reports, ()) == {2}
    assert (
        summarize(reports, {})[2] == "rank 2 waits in all_reduce #9 of pool (ranks 2-3), which rank 3 has not entered"
    )


def test_who_waits_for_a_stuck_rank_in_a_small_group_does_not_differ() -> None:
    """One pool group of eight waits for its rank 3, the others for that group."""
    reports = {rank: in_collective(rank, 40, "0-15") for rank in range(8, 16)}
    reports |= {rank: in_collective(rank, 9, "0-7", "all_to_all", "5", "pool") for rank in range(8) if rank != 3}
    reports[3] = in_python(3, 39, "0-15")
    assert differing_ranks(reports, ()) == {3}


def test_ranks_that_wait_in_a_circle_are_all_shown() -> None:
    reports = {0: in_collective(0, 4, "0-1", group="1", name="tp"), 1: in_collective(1, 6, "0-1", group="2", name="dp")}
    lines = summarize(reports, {})
    assert lines[0] == "the run makes no progress in step 7; the ranks wait for each other"
    assert lines[1:] == [
        "rank 0 waits in all_reduce #4 of tp (ranks 0-1), which rank 1 has not entered",
        "rank 1 waits in all_reduce #6 of dp (ranks 0-1), which rank 0 has not entered",
    ]


def test_sends_and_receives_are_waiting_too() -> None:
    reports = {0: in_send(0, "passing outputs"), 1: in_send(1, "passing outputs"), 2: in_python(2, 5, "0-3")}
    lines = summarize(reports, {})
    assert lines[0].endswith("rank 2 differs")
    assert lines[2] == "ranks 0-1 wait in a send or receive between two ranks: passing outputs"


def test_ranks_in_the_same_place_share_a_line_and_no_summary_is_long() -> None:
    reports: dict[int, Report] = {rank: in_python(rank, 86, "0-511", f"data.py:{rank} read") for rank in range(100)}
    reports |= {rank: in_python(rank, 86, "0-511", "data.py:12 read", step=6) for rank in range(100, 200)}
    reports |= {
        rank: in_collective(rank, 3, f"{rank}-{rank + 1}", group=str(rank), name="pp") for rank in range(200, 512)
    }
    lines = summarize(reports, {})
    assert len(lines) == 1 + 2 * MAX_LINES and max(map(len, lines)) < 300
    assert f"and {101 - MAX_LINES + 1} more places; see the files" in lines
    only = summarize({rank: reports[rank] for rank in range(100, 200)}, {})
    assert only[0] == "the run makes no progress in step 6; no rank waits for another" and len(only) == 2
    assert only[1].startswith("ranks 100-199 are not in a collective but at data.py:12 read; reading")


def test_a_report_survives_its_way_through_the_store() -> None:
    for report in (in_collective(3, 9, "0-7"), in_python(1, 2, "0-3"), in_send(2, "passing")):
        assert Report.from_json(report.to_json()) == report


@pytest.mark.parametrize(
    ("ranks", "text"), [([], ""), ([5], "5"), ([3, 1, 2, 7], "1-3,7"), ([0, 1, 4, 5, 6, 511], "0-1,4-6,511")]
)
def test_ranks_as_ranges(ranks: list[int], text: str) -> None:
    assert as_ranges(ranks) == text and from_ranges(text) == set(ranks)


def entry(at: int, backend: str, operation: str, number: int, *, retired: bool, **other: Any) -> dict[str, Any]:
    known = {
        "process_group": ["0", "default_pg"],
        "is_p2p": False,
        "state": "scheduled",
        "thread_id": "1",
        "p2p_seq_id": 0,
    }
    named = {"time_created_ns": at, "profiling_name": f"{backend}:{operation}", "collective_seq_id": number}
    return {**known, **named, "op_id": number, "retired": retired, **other}


def test_what_a_rank_is_in_is_the_oldest_that_has_not_ended_of_both_recorders() -> None:
    gloo = {"entries": [entry(5, "gloo", "barrier", 1, retired=False, thread_id="77", process_group=["9", "storage"])]}
    nccl = {
        "entries": [
            entry(3, "nccl", "all_reduce", 2, retired=False, state="started"),
            entry(1, "nccl", "all_reduce", 1, retired=False, state="completed"),
            entry(4, "nccl", "send 0->1", 2, retired=False, is_p2p=True, p2p_seq_id=1, process_group=["4", "PP"]),
        ]
    }
    found = from_traces([gloo, nccl, nccl], {"0": KnownGroup("world", "0-3")}, without_threads=[77])
    assert [(c.operation, c.number, c.completed, c.name) for c in found] == [
        ("all_reduce", 1, True, "world"),
        ("all_reduce", 2, False, "world"),
        ("send or receive (send 0->1)", 1, False, "PP"),
    ]
    assert last_of(found) == found[1] and last_of(found[:1]) == found[0] and last_of([]) is None
    assert entered(found) == {"0": 2}
    assert [c.name for c in from_traces([gloo], {})] == ["storage"]
    assert from_traces([{}], {}) == []
