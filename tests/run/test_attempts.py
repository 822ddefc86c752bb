"""The record of a run's starts survives whatever ends the batch script."""

from __future__ import annotations

from pathlib import Path

import pytest

from unipool_dist.run.attempts import Attempt, AttemptLog


def test_starts_and_ends_come_back(tmp_path: Path) -> None:
    log = AttemptLog(tmp_path)
    log.start(Attempt("5", 0, ["n1", "n2"], 4, 0, 10.0))
    log.end(ended=20.0, outcome="failed", status=1, step=3, detail="an error")
    log.start(Attempt("5", 1, ["n2"], 2, 3, 30.0))
    first, second = AttemptLog.read(tmp_path).attempts
    assert (first.outcome, first.step, first.nodes) == ("failed", 3, ["n1", "n2"])
    assert second.outcome is None and second.step_before == 3 and second.restart == 1


@pytest.mark.parametrize("written", [b'{"event": "end", "outc', b'{"event": "end", "\xff": 1}', b"\0\0\0"])
def test_a_line_cut_short_is_ignored_and_does_not_spoil_the_next(tmp_path: Path, written: bytes) -> None:
    log = AttemptLog(tmp_path)
    log.start(Attempt("5", 0, ["n1"], 1, 0, 10.0))
    with (tmp_path / "attempts.jsonl").open("ab") as file:
        file.write(written)
    log = AttemptLog.read(tmp_path)
    log.start(Attempt("5", 1, ["n1"], 1, 7, 30.0))
    attempts = AttemptLog.read(tmp_path).attempts
    assert [item.restart for item in attempts] == [0, 1] and attempts[0].outcome is None


def test_an_end_belongs_to_the_start_of_its_job_and_restart(tmp_path: Path) -> None:
    """The batch script of a node that was cut off ends when SLURM has long restarted the job."""
    cut_off = AttemptLog(tmp_path)
    cut_off.start(Attempt("5", 0, ["n1"], 1, 0, 10.0))
    AttemptLog.read(tmp_path).start(Attempt("6", 1, ["n2"], 1, 3, 20.0))
    assert not cut_off.is_superseded(), "that is another job, which does not get the run's lock"
    AttemptLog.read(tmp_path).start(Attempt("5", 1, ["n2"], 1, 3, 30.0))
    assert cut_off.is_superseded()
    cut_off.end(ended=40.0, outcome="failed", status=1, step=3, detail="an error")
    first, _, second = AttemptLog.read(tmp_path).attempts
    assert (first.outcome, first.ended, second.outcome, second.ended) == ("failed", 40.0, None, None)


def test_an_end_of_an_earlier_version_is_that_of_the_last_start(tmp_path: Path) -> None:
    log = AttemptLog(tmp_path)
    log.start(Attempt("5", 0, ["n1"], 1, 0, 10.0))
    log.start(Attempt("5", 1, ["n1"], 1, 0, 20.0))
    with (tmp_path / "attempts.jsonl").open("a") as file:
        file.write('{"event": "end", "outcome": "failed"}\n')
    assert [attempt.outcome for attempt in AttemptLog.read(tmp_path).attempts] == [None, "failed"]


def test_what_cannot_be_written_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "attempts.jsonl").mkdir()  # root, too, cannot write to it
    log = AttemptLog(tmp_path)
    log.start(Attempt("5", 0, ["n1"], 1, 0, 10.0))
    log.end(ended=20.0, outcome="stopped", status=75, step=3, detail="SIGUSR1 on a rank")
    assert log.attempts[0].outcome == "stopped", "it is known in this process"
    assert capsys.readouterr().err.count("cannot be written") == 2


def test_nothing_is_no_error(tmp_path: Path) -> None:
    assert AttemptLog.read(tmp_path).attempts == []
