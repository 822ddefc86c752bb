"""Reasons to stop are told apart by their kind, in files of every version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unipool_dist.base.stopping import OF_SIGNAL, StopReason, with_reason
from unipool_dist.run.attempts import Attempt, AttemptLog
from unipool_dist.run.state import RunState

EARLIER = {
    "SIGHUP on a rank": StopReason.HANGUP,
    "SIGUSR1 on a rank": StopReason.WARNED,
    "SIGINT on a rank": StopReason.BY_HAND,
    "SIGTERM on a rank": StopReason.TERMINATED,
    "the time limit run.time_limit_s=1.5 is near": StopReason.TIME_LIMIT,
    "SLURM has started this job anew elsewhere, and that start waits for the run": StopReason.HANDED_OVER,
    "SLURM has restarted this job elsewhere, and that start waits for the run": StopReason.HANDED_OVER,
    "the disk said: SIGINT on a rank": StopReason.UNKNOWN,
}


@pytest.mark.parametrize(("text", "reason"), EARLIER.items())
def test_texts_of_earlier_versions_are_known(text: str, reason: StopReason) -> None:
    for field in ("reason", "detail"):
        found = with_reason({"step": 3, field: text}, text=field)
        assert found == {"step": 3, "reason": reason, "detail": text}


def test_a_record_with_a_reason_or_without_any_stays_as_it_is() -> None:
    for fields in ({"reason": "by_hand", "detail": "SIGTERM on a rank"}, {"reason": None, "detail": None}, {}):
        for field in ("reason", "detail"):
            assert with_reason(fields, text=field) == fields


def test_the_names_on_disk_and_their_order_of_precedence() -> None:
    names = ["unknown", "callback", "time_limit", "hangup", "warned", "by_hand", "terminated", "handed_over"]
    assert [*StopReason] == names
    assert [reason for reason in StopReason if reason.is_final] == [StopReason.CALLBACK, StopReason.BY_HAND]
    assert {number.name: reason.value for number, reason in OF_SIGNAL.items()} == {
        "SIGHUP": "hangup",
        "SIGUSR1": "warned",
        "SIGINT": "by_hand",
        "SIGTERM": "terminated",
    }


def test_an_attempt_keeps_its_reason_in_its_file(tmp_path: Path) -> None:
    log = AttemptLog(tmp_path)
    for _ in range(2):
        log.start(Attempt("5", 0, ["n1"], 1, 0, 1.0))
    log.end(ended=2.0, outcome=RunState.STOPPED, detail="words", reason=StopReason.BY_HAND)
    with (tmp_path / "attempts.jsonl").open("a") as file:
        file.write(json.dumps({"event": "start", "job_id": "6", "restart": 0, "nodes": ["n1"], "num_tasks": 1,
                               "step_before": 3, "started": 3.0}) + "\n")  # fmt: skip
        file.write(json.dumps({"event": "end", "outcome": "stopped", "detail": "SIGTERM on a rank"}) + "\n")
    cut_off, new, old = AttemptLog.read(tmp_path).attempts
    assert (cut_off.outcome, cut_off.reason) == (None, None)
    assert (new.outcome, new.reason, new.detail) == (RunState.STOPPED, StopReason.BY_HAND, "words")
    assert (old.outcome, old.reason, old.detail) == (RunState.STOPPED, StopReason.TERMINATED, "SIGTERM on a rank")
