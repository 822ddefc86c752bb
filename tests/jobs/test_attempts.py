"""The record of a run's starts survives whatever ends the batch script."""

from __future__ import annotations

from pathlib import Path

from unipool_dist.jobs.attempts import ATTEMPTS_FILE, Attempt, AttemptLog


def test_starts_and_ends_come_back(tmp_path: Path) -> None:
    log = AttemptLog(tmp_path)
    log.start(Attempt("5", 0, ["n1", "n2"], 4, 0, 10.0))
    log.end(ended=20.0, outcome="failed", status=1, step=3, detail="an error")
    log.start(Attempt("5", 1, ["n2"], 2, 3, 30.0))
    first, second = AttemptLog.read(tmp_path).attempts
    assert (first.outcome, first.step, first.nodes) == ("failed", 3, ["n1", "n2"])
    assert second.outcome is None and second.step_before == 3 and second.restart == 1


def test_a_line_cut_short_is_ignored_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    log = AttemptLog(tmp_path)
    log.start(Attempt("5", 0, ["n1"], 1, 0, 10.0))
    with (tmp_path / ATTEMPTS_FILE).open("a") as file:
        file.write('{"event": "end", "outc')
    log = AttemptLog.read(tmp_path)
    log.start(Attempt("5", 1, ["n1"], 1, 7, 30.0))
    attempts = AttemptLog.read(tmp_path).attempts
    assert [item.restart for item in attempts] == [0, 1] and attempts[0].outcome is None


def test_nothing_is_no_error(tmp_path: Path) -> None:
    assert AttemptLog.read(tmp_path).attempts == []
