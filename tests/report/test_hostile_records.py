"""Records of a run that are no records: whoever reads them gets an error that names the file, or none of its lines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from unipool_dist.base.reading import read_lines
from unipool_dist.errors import UnipoolError
from unipool_dist.jobs.folder import JobFolder
from unipool_dist.observe.jsonlines import read_json_lines
from unipool_dist.probe.record import read_probe
from unipool_dist.report.expert_use import read_usage
from unipool_dist.run.attempts import AttemptLog
from unipool_dist.run.heartbeat import read_heartbeat
from unipool_dist.run.lock import holder_of

MAKE: dict[str, Callable[[Path], object]] = {
    "deep": lambda path: path.write_text("[" * 100_000 + "\n"),
    "deep objects": lambda path: path.write_text('{"step":' * 100_000 + "1" + "}" * 100_000 + "\n"),
    "digits": lambda path: path.write_text('{"step": ' + "9" * 5000 + "}\n"),
    "a list": lambda path: path.write_text("[1]\n"),
    "null": lambda path: path.write_text("null\n"),
    "wrong types": lambda path: path.write_text(
        '{"step": "x", "event": "start", "state": 5, "time": [], "nodes": 1}\n'
    ),
    "infinite": lambda path: path.write_text('{"step": Infinity, "time": NaN, "event": []}\n'),
    "bytes": lambda path: path.write_bytes(bytes(range(256))),
    "a pipe": os.mkfifo,
    "without end": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "a loop": lambda path: path.symlink_to(path.name),
}
READ: dict[str, tuple[str, Callable[[Path], object]]] = {
    "heartbeat": ("heartbeat.json", read_heartbeat),
    "job": ("job/job.json", lambda run: JobFolder(run).read()),
    "submissions": ("job/submissions", lambda run: JobFolder(run).submissions()),
    "attempts": ("job/attempts.jsonl", lambda run: AttemptLog.read(run / "job")),
    "metrics": ("metrics.jsonl", lambda run: read_json_lines(run / "metrics.jsonl")),
    "usage": ("expert_usage.jsonl", lambda run: read_usage(run / "expert_usage.jsonl", 10)),
    "probe": ("probe/probe.json", read_probe),
    "lock": (".lock", holder_of),
}


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("record", READ)
def test_what_is_no_record_is_an_error_or_nothing(record: str, kind: str, tmp_path: Path) -> None:
    name, read = READ[record]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    MAKE[kind](path)
    # What the operating system refuses is one line on the command line; of the attempts so is what is no file, as the
    # batch script has to say how to go on.
    by_system = kind in ("a folder", "a loop") or record == "attempts"
    refused = [UnipoolError, OSError] if by_system else [UnipoolError]
    with suppress(*refused):
        read(tmp_path)


def test_a_line_without_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + "x" * 1000 + "\n")
    with pytest.raises(ValueError, match="a line of more than 100 bytes"):
        list(read_lines(path, max_bytes=100))
    path.write_text('{"step": 1}\n{"step": 2')
    assert read_json_lines(path) == [{"step": 1}], "the last was cut short by a crash"


def test_an_attempt_keeps_its_types(tmp_path: Path) -> None:
    start = {
        "event": "start",
        "job_id": "1",
        "restart": 0,
        "nodes": ["a"],
        "num_tasks": 1,
        "step_before": 0,
        "started": 1.0,
    }
    lines = [start, {"event": "end", "job_id": "1", "restart": 0, "ended": "soon"}]
    lines += [
        {"event": "end", "job_id": "1", "restart": 0, "__class__": 1},
        {"event": "end", "status": 75, "ended": 2.0},
    ]
    (tmp_path / "attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (attempt,) = AttemptLog.read(tmp_path).attempts
    assert (attempt.status, attempt.ended) == (75, 2.0)
