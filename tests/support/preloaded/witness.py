"""``python -m tests.support.preloaded.witness [MODE]`` says as JSON what it was started with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any


def seen() -> dict[str, Any]:
    """All that a program can know of how it was started."""
    process = Path("/proc/self")
    environment = os.fsdecode(process.joinpath("environ").read_bytes()).split("\0")
    given = {text.partition("=")[0] for text in environment}  # others come from importing the package
    mask = os.umask(0)
    os.umask(mask)
    return {
        "arguments": sys.argv[1:],
        "file": sys.argv[0],
        "original": sys.orig_argv,
        "command": os.fsdecode(process.joinpath("cmdline").read_bytes()).split("\0"),
        "environment": _but_for_readline(environment),
        "variables": _but_for_readline(f"{name}={value}" for name, value in os.environ.items() if name in given),
        "directory": os.getcwd(),
        "leads a session": os.getsid(0) == os.getpid(),
        "umask": mask,
        "ignored": [number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN],
        "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": [number for number in range(3) if _is_open(number)],
        "inherited": [number for number in range(3, 1000) if _is_open(number) and os.get_inheritable(number)],
        "path": sys.path,
        "safe path": sys.flags.safe_path,
        "utf-8": sys.flags.utf8_mode,
        "encodings": [sys.stdin.encoding, sys.stdout.encoding, sys.stderr.encoding, sys.stdout.errors],
        "lines": [sys.stdout.line_buffering, sys.stderr.line_buffering],
        "standard input": sys.stdin.read(),
        "parent": os.getppid(),
    }


def _but_for_readline(variables: Iterable[str]) -> list[str]:
    """Sorted, without what libreadline puts into the environment of a process behind Python's back."""
    return sorted(text for text in variables if not text.startswith(("COLUMNS=", "LINES=")))


def _is_open(number: int) -> bool:
    with suppress(OSError):
        os.fstat(number)
        return True
    return False


def main(mode: str = "") -> None:
    """Say it, or wait to be killed, or let a child do so."""
    command = [sys.executable, "-m", "tests.support.preloaded.witness"]
    if mode == "wait":
        print("waiting", flush=True)
        time.sleep(600)
    elif mode == "parent":
        subprocess.run([*command, "child"], check=True, input="from the parent", text=True, start_new_session=True)
        print(os.getpid())
    elif mode == "fails":
        raise ValueError("on purpose")
    else:
        print(json.dumps(seen(), sort_keys=True))


if __name__ == "__main__":
    main(*sys.argv[1:2])
