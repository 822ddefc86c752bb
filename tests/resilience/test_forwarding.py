"""Which processes a signal is passed on to, and what happens where there are none."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.timing

START = """
import signal, subprocess, sys, time
from unipool_dist.resilience.forwarding import SignalForwarder
assert "torch" not in sys.modules
def child(**options):
    return subprocess.Popen(["sleep", "20"], **options)
"""


def started(program: str) -> subprocess.Popen[str]:
    """A program that has said that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", START + program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_workers_of_now_and_of_later_get_the_signal_and_no_other_child() -> None:
    process = started("""
with SignalForwarder(2):
    other, first = child(), child(start_new_session=True)
    print("ready", flush=True)
    first.wait()
    second = child(start_new_session=True)
    second.wait()
    third = child(start_new_session=True)
    time.sleep(0.3)
    print(first.returncode, second.returncode, third.poll(), other.poll())
    third.kill(), other.kill()
""")
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, f"{-signal.SIGUSR1} {-signal.SIGUSR1} None None\n", "")


def test_without_workers_the_process_ends_soon() -> None:
    process = started("""
import ctypes
mutex = ctypes.create_string_buffer(256)
with SignalForwarder(2, patience_s=0.3):
    print("ready", flush=True)
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
    ctypes.CDLL(None).pthread_mutex_lock(mutex)  # for ever
""")
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert err == "SIGTERM received before any process was started: ending\n"
    assert 0.2 < time.monotonic() - sent < 5


def test_once_the_status_is_decided_signals_do_nothing() -> None:
    process = started("""
with SignalForwarder(2, patience_s=0) as forwarder:
    forwarder.ignore_from_now()
    worker = child(start_new_session=True)
    print("ready", flush=True)
    time.sleep(0.3)
    assert worker.poll() is None
    worker.kill()
sys.exit(75)
""")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (75, "")
