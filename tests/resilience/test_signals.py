"""Signals to a rank: the first is remembered, the second ends it at once, whatever its main thread does meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

pytestmark = pytest.mark.timing

START = """
import ctypes, os, signal, sys, time
from unipool_dist.resilience.signals import StopSignals
assert "torch" not in sys.modules
mutex = ctypes.create_string_buffer(256)
def blocked():
    libc = ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)  # for ever, without the GIL; no signal interrupts it
def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)
"""
FIRST = (
    "rank 2: SIGTERM received: finishing this step, saving, and stopping; a second signal ends the process at once\n"
)
Program = subprocess.Popen[str]


@pytest.fixture
def start() -> Iterator[Callable[[str], Program]]:
    """Starts a program that has said that it is ready."""
    started: list[Program] = []

    def starting(program: str) -> Program:
        process = subprocess.Popen(
            [sys.executable, "-c", START + program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield starting
    for process in started:
        process.kill()
        process.communicate()


def said(process: Program) -> str:
    """The next line on stderr: proof that the signal was seen."""
    assert process.stderr is not None
    return process.stderr.readline()


def end(process: Program) -> tuple[int, str, str]:
    """Exit status, and what is left of stdout and stderr."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_the_first_signal_is_remembered_and_said(start: Callable[[str], Program]) -> None:
    process = start("""
with StopSignals(2) as signals:
    assert signals.received is None
    print("ready", flush=True)
    wait_for(lambda: signals.received)
    print(signals.received.name)
""")
    process.send_signal(signal.SIGTERM)
    assert end(process) == (0, "SIGTERM\n", FIRST)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_the_second_signal_ends_a_process_blocked_in_a_library(
    start: Callable[[str], Program], second: signal.Signals
) -> None:
    process = start("""
with StopSignals(2) as signals:
    print("ready", flush=True)
    blocked()
""")
    time.sleep(0.1)  # for the main thread to be blocked
    process.send_signal(signal.SIGTERM)
    assert said(process) == FIRST
    time.sleep(0.3)  # over same_request_s
    sent = time.monotonic()
    process.send_signal(second)
    status, _, err = end(process)
    assert status == 128 + second
    assert err == f"rank 2: {second.name} received, the second signal: ending at once, without saving\n"
    assert time.monotonic() - sent < 5


def test_a_library_s_system_call_goes_on_as_if_there_were_no_signal(start: Callable[[str], Program]) -> None:
    process = start("""
import threading
reading, writing = os.pipe()
def write_once_received():
    wait_for(lambda: signals.received)
    time.sleep(0.1)
    os.write(writing, b"x")
with StopSignals(2) as signals:
    threading.Thread(target=write_once_received).start()
    print("ready", flush=True)
    print(ctypes.CDLL(None).read(reading, ctypes.create_string_buffer(1), 1))
""")
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert end(process) == (0, "1\n", FIRST)


def test_signals_of_one_request_count_once(start: Callable[[str], Program]) -> None:
    process = start("""
with StopSignals(2, same_request_s=30) as signals:
    print("ready", flush=True)
    wait_for(lambda: signals.received)
    print("first", flush=True)
    time.sleep(0.5)
    print(signals.received.name)
""")
    assert process.stdout is not None
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "first\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert end(process) == (0, "SIGTERM\n", FIRST)


def test_after_saving_signals_are_ignored_even_past_the_end_of_the_context(start: Callable[[str], Program]) -> None:
    process = start("""
with StopSignals(2) as signals:
    os.kill(os.getpid(), signal.SIGTERM)
    wait_for(lambda: signals.received)
    signals.ignore_from_now()
    time.sleep(0.3)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(os.getpid(), number)
# A handler in Python, even one that does nothing, would be taken away while the interpreter ends.
assert {signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)} == {signal.SIG_IGN}
print("ready", flush=True)
time.sleep(0.5)
sys.exit(75)
""")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        process.send_signal(number)
    assert end(process) == (75, "", FIRST)


def test_handlers_and_wakeup_fd_are_restored() -> None:
    program = """
def usual(number, frame):
    print("usual handler", flush=True)
signal.signal(signal.SIGUSR1, usual)
reading, writing = os.pipe()
os.set_blocking(writing, False)
signal.set_wakeup_fd(writing)
before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
threads = len(os.listdir("/proc/self/task"))
descriptors = len(os.listdir("/proc/self/fd"))
with StopSignals(2):
    assert signal.getsignal(signal.SIGUSR1) is not usual
assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
assert signal.set_wakeup_fd(writing) == writing
assert len(os.listdir("/proc/self/fd")) == descriptors
wait_for(lambda: len(os.listdir("/proc/self/task")) == threads)
os.kill(os.getpid(), signal.SIGUSR1)
"""
    result = subprocess.run([sys.executable, "-c", START + program], capture_output=True, text=True, timeout=10)
    assert (result.returncode, result.stdout, result.stderr) == (0, "usual handler\n", "")


def test_a_closed_stderr_does_not_keep_the_process_alive(start: Callable[[str], Program]) -> None:
    """The terminal or the pipe that showed the output may have gone before the process is told to stop."""
    process = start("""
with StopSignals(2, same_request_s=0) as signals:
    print("ready", flush=True)
    blocked()
""")
    assert process.stderr is not None
    process.stderr.close()
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM
