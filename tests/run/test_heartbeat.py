"""The heartbeat tells where a run is, from outside and after a crash."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unipool_dist.base.stopping import Stop, StopReason
from unipool_dist.run.heartbeat import HeartbeatWriter, read_heartbeat
from unipool_dist.run.state import RunState


def test_every_step_is_there_at_once(tmp_path: Path) -> None:
    writer = HeartbeatWriter(tmp_path, steps=100, resumed_from=40)
    beat = read_heartbeat(tmp_path)
    assert beat is not None and (beat.step, beat.steps, beat.resumed_from, beat.state) == (40, 100, 40, "training")
    for step in (41, 42):
        writer.write(step)
        beat = read_heartbeat(tmp_path)
        assert beat is not None and beat.step == step
    writer.write(42, RunState.STOPPED, Stop(StopReason.WARNED, "SIGUSR1 on a rank"))
    writer.close()
    beat = read_heartbeat(tmp_path)
    assert beat is not None and (beat.state, beat.reason, beat.detail) == ("stopped", "warned", "SIGUSR1 on a rank")


def test_a_shorter_line_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    writer = HeartbeatWriter(tmp_path, steps=10**9, resumed_from=10**8)
    writer.write(10**8, RunState.STOPPED, Stop(StopReason.HANDED_OVER, "x" * 300))
    writer.close()
    HeartbeatWriter(tmp_path, steps=5, resumed_from=0).close()
    beat = read_heartbeat(tmp_path)
    assert beat is not None and (beat.step, beat.reason) == (0, None)


def test_a_detail_that_is_too_long_is_cut(tmp_path: Path) -> None:
    HeartbeatWriter(tmp_path, steps=9, resumed_from=0).write(
        4, RunState.STOPPED, Stop(StopReason.UNKNOWN, "\x1b" * 999)
    )
    beat = read_heartbeat(tmp_path)
    assert beat is not None and (beat.step, beat.reason) == (4, "unknown") and set(beat.detail or "") == {"\x1b"}
    assert (tmp_path / "heartbeat.json").stat().st_size == 512


def test_a_heartbeat_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    line = '{"state": "stopped", "step": 4, "steps": 9, "resumed_from": 0, "reason": "SIGTERM on a rank", "time": 1.5}'
    (tmp_path / "heartbeat.json").write_text(line.ljust(511) + "\n")
    beat = read_heartbeat(tmp_path)
    assert beat is not None and (beat.state, beat.reason, beat.detail) == (
        RunState.STOPPED,
        StopReason.TERMINATED,
        "SIGTERM on a rank",
    )


@pytest.mark.parametrize("text", ["", '{"step": 4', "[]", '{"unknown": 1}'])
def test_what_cannot_be_read_is_no_heartbeat(tmp_path: Path, text: str) -> None:
    assert read_heartbeat(tmp_path) is None
    (tmp_path / "heartbeat.json").write_text(text)
    assert read_heartbeat(tmp_path) is None


def test_a_file_system_that_fails_does_not_end_training(tmp_path: Path) -> None:
    writer = HeartbeatWriter(tmp_path, steps=5, resumed_from=0)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, writer._descriptor)
    os.close(full)
    writer.write(1)
