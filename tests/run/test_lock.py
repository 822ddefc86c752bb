"""One run per directory, as long as its process lives."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unipool_dist.errors import RunLockedError
from unipool_dist.run.lock import RunLock

HOLD = """
import subprocess, sys
from pathlib import Path
from unipool_dist.run.lock import RunLock
assert "torch" not in sys.modules
with RunLock(Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(run_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock, and a child of it that outlives it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
        os.kill(child, 9)


def test_a_lock_held_by_another_process_is_refused_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with holder(run_dir) as process:
        with pytest.raises(RunLockedError) as caught:
            RunLock(run_dir).acquire()
        written = json.loads((run_dir / ".lock").read_text())
        assert str(caught.value) == (
            f"run.dir={run_dir} is being written by process {process.pid} on host {socket.gethostname()} "
            f"(since {written['since']}, SLURM job 4711); wait for it to end, or end it"
        )
        with RunLock(tmp_path / "other"):
            pass


def test_a_killed_process_leaves_no_lock_even_if_its_children_live_on(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
        process.wait(10)
        with RunLock(tmp_path):
            assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_released_lock_is_free(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    with pytest.raises(RunLockedError):
        second.acquire()
    first.release()
    first.release()
    with second, pytest.raises(RunLockedError):
        first.acquire()
    with first:
        pass


@pytest.mark.parametrize("text", ["", "{", "{}", "7"])
def test_a_holder_that_has_not_written_its_name_is_another_process(tmp_path: Path, text: str) -> None:
    with RunLock(tmp_path):
        (tmp_path / ".lock").write_text(text)
        with pytest.raises(RunLockedError, match="is being written by another process; wait"):
            RunLock(tmp_path).acquire()


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with RunLock(tmp_path):
        pass
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: the file system of run.dir={tmp_path} has no locks ({os.strerror(number)})")


def test_other_errors_of_the_file_system_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Input/output error"):
        RunLock(tmp_path).acquire()
    assert len(os.listdir("/proc/self/fd")) == before


def test_it_can_wait_for_a_process_that_is_about_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(RunLockedError):
            RunLock(tmp_path).acquire(wait_s=0.6)
        assert f"still held by process {process.pid}" in capsys.readouterr().err
        lock = RunLock(tmp_path)
        threading.Timer(0.7, process.kill).start()
        lock.acquire(wait_s=30)
        lock.release()
