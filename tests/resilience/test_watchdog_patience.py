"""What counts as making no progress, and the store that does not answer."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from unipool_dist.comm.notes import Notes
from unipool_dist.resilience.activity import Activity
from unipool_dist.resilience.board import Board, BoardLostError
from unipool_dist.resilience.patience import Patience
from unipool_dist.resilience.stacks import (
    Frame,
    Stack,
    in_debugger,
    in_point_to_point,
    main_stack,
    place,
    place_in_dump,
)

pytestmark = pytest.mark.timing


def waited(patience: Patience, *times: float, number: int = 1) -> bool:
    for now in times:
        patience.tick(now, number)
    return patience.gone


def test_only_time_in_which_this_process_ran_counts() -> None:
    """A suspended machine, a stopped process or a starved one is not a stuck one."""
    patience = Patience(limit_s=10, tick_s=1)
    assert not waited(patience, 0, 1, 2, 3)
    assert not waited(patience, 10_000, 10_001), "an hour between two readings is two ticks at most"
    assert patience.quiet_s == 6
    assert not waited(patience, *range(10_002, 10_005))
    assert waited(patience, 10_005)


def test_a_beat_begins_anew() -> None:
    patience = Patience(limit_s=3, tick_s=1)
    for now in range(100):
        patience.tick(now, number=now // 3)
        assert not patience.gone
    assert waited(patience, 100, 101, 102, number=33)


def test_an_excuse_of_any_rank_is_one_for_all() -> None:
    patience = Patience(limit_s=4, tick_s=1)
    for now in range(3):
        patience.tick(now, 1)
    assert (patience.half_gone, patience.gone) == (True, False)
    patience.others_excused(17)
    for now in range(3, 40):
        patience.tick(now, 1)
        assert not patience.gone
        patience.others_excused(17 + now)
    for now in (40, 41):
        patience.tick(now, 1)
        patience.others_excused(17 + 39)
    assert patience.gone and patience.quiet_s == 41
    patience.excuse()
    assert not patience.half_gone


def test_reading_and_computing_are_activity_and_waiting_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100_000))
    with_cpu, without = Activity(cpu_counts=True), Activity(cpu_counts=False)
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        pass
    assert with_cpu.seen() and not without.seen()
    time.sleep(0.2)
    assert not with_cpu.seen() and not without.seen()
    (tmp_path / "file").read_bytes()
    assert without.seen() and not without.seen()


class MuteNotes:
    """As notes in torch's TCPStore when its server is stopped: calls do not return."""

    def get(self, name: str) -> str | None:
        threading.Event().wait()
        raise AssertionError


def test_a_store_that_does_not_answer_is_given_up_on() -> None:
    board = Board(MuteNotes, patience_s=0.2)  # type: ignore[arg-type]
    began = time.monotonic()
    with pytest.raises(BoardLostError, match=r"did not answer within 0\.2 s"):
        board.get("a")
    with pytest.raises(BoardLostError):
        board.put("a", "b")
    assert time.monotonic() - began < 1 and board.lost


def test_boards_on_one_file_share_their_notes(tmp_path: Path) -> None:
    one, other = (Board(lambda: Notes(dist.FileStore(str(tmp_path / "board"), -1), "watchdog"), 5.0) for _ in range(2))
    assert one.get("a") is None
    one.put("a", "b")
    assert other.get("a") == "b"
    assert [one.claim("c", "1"), other.claim("c", "2")] == ["1", "1"]
    assert [one.count("n", 2), other.count("n", 1), one.count("n")] == [2, 3, 3]
    for board in (one, other):
        board.close()
    with pytest.raises(BoardLostError, match="closed"):
        one.get("a")


def test_places_are_named_by_file_line_and_function() -> None:
    here = main_stack()
    assert here.frames[0].function == "main_stack" or here.frames[0].function.endswith("place")
    library = Frame("threading", "threading.py", 3, "wait")
    ours = Frame("unipool_dist.checkpoint.saver", "saver.py", 9, "Saver.wait")
    assert place(Stack("MainThread", True, (library, ours))) == "threading.py:3 wait, called from saver.py:9 Saver.wait"
    assert place(Stack("MainThread", True, (ours, library))) == "saver.py:9 Saver.wait"
    assert not in_debugger(here) and not in_point_to_point(here)
    assert in_debugger(Stack("MainThread", True, (Frame("cmd", "cmd.py", 1, "loop"), Frame("pdb", "pdb.py", 1, "x"))))
    p2p = Frame("megatron.core.pipeline_parallel.p2p_communication", "p2p.py", 1, "f")
    assert in_point_to_point(Stack("MainThread", True, (p2p,)))


def test_the_main_thread_of_a_dump_is_its_last() -> None:
    dump = (
        'Timeout (0:00:02)!\nThread 0x01 (most recent call first):\n  File "a.py", line 3 in other\n\n'
        'Thread 0x02 (most recent call first):\n  File "b.py", line 26 in hold\n  File "b.py", line 61 in main\n'
    )
    assert place_in_dump(dump) == "b.py:26 hold" and place_in_dump("") is None
