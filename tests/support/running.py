"""A run of the command line under way: what it has recorded so far, which processes it has, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from unipool_dist.observe.jsonlines import read_json_lines


def one_thread() -> dict[str, str]:
    """The environment for a run; a single process would take all cores, which others here are using."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


class Run:
    """A run started by ``command``, in a process group of its own; what it says goes to ``log``."""

    def __init__(
        self, command: list[str], run_dir: Path, log: Path, variables: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.run_dir, self.log = run_dir, log
        environment = {**one_thread(), **variables}
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environment
            )

    def wait_for_text(self, text: str, timeout_s: float = 300) -> None:
        """Until ``text`` was said."""
        self._wait(lambda: text in self.output(), timeout_s)

    def wait_for_step(self, step: int, timeout_s: float = 300) -> None:
        """Until ``step``, or a later one, is recorded."""
        self._wait(lambda: last_step(self.run_dir) >= step, timeout_s)

    def _wait(self, condition: Any, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None and time.monotonic() < until, self.output()
            time.sleep(0.01)

    def output(self) -> str:
        return self.log.read_text()

    def ranks(self) -> dict[int, int]:
        """Process ids by rank, of those that are there."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):
                rank = child.environ().get("RANK")
                if rank is not None and b"unipool_dist" in " ".join(child.cmdline()).encode():
                    found[int(rank)] = child.pid
        return found

    def end(self, timeout_s: float = 300) -> tuple[int, str]:
        """Exit status and everything that was said."""
        try:
            return self.process.wait(timeout_s), self.output()
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s:\n{self.output()}") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """End the launcher; its ranks end with it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def train_records(run_dir: Path) -> list[dict[str, Any]]:
    """The training steps that ``metrics.jsonl`` has, in the order in which they are there."""
    path = run_dir / "metrics.jsonl"
    return [record for record in read_json_lines(path) if "loss" in record] if path.exists() else []


def last_step(run_dir: Path) -> int:
    """The last step that is recorded; 0 if there is none."""
    return max((record["step"] for record in train_records(run_dir)), default=0)
