"""The run that is killed: four processes on a tiny corpus, and its end, one process first."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from tests.support.running import Run
from tests.support.runs import train_command, write_sources

LAYOUT = ("parallel.pp=2", "parallel.dp=2", "pool.parallel_size=4")


def command_of(corpus: Path, run_dir: Path, flag: str, steps: int, interval: int) -> list[str]:
    settings = (f"train.steps={steps}", f"checkpoint.interval={interval}", "log.interval=1", "train.eval_sequences=0")
    return train_command(corpus, run_dir, 4, flag, *LAYOUT, *settings, "log.tensorboard=false")


def prepared_corpus(folder: Path) -> Path:
    """Made if it is not there."""
    corpus = folder / "corpus"
    if not (corpus / "manifest.json").exists():
        sources = [f"--source={name}={path}" for name, path in write_sources(folder).items()]
        command = [sys.executable, "-m", "unipool_dist", "data", "prepare", str(corpus), *sources]
        subprocess.run([*command, "--vocab-size", "320"], check=True, stdout=subprocess.DEVNULL)
    return corpus


def kill_one(run: Run, draw: random.Random) -> str:
    """SIGKILL to a rank, or, now and then and while there is none, to the launcher."""
    ranks = run.ranks()
    name = draw.choice([f"rank {rank}" for rank in sorted(ranks)] or [""])
    if not ranks or draw.random() < 0.15:
        run.process.kill()
        return "launcher"
    with suppress(ProcessLookupError):
        os.kill(ranks[int(name.split()[1])], signal.SIGKILL)
    return name


def processes_of(run_dir: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["cmdline", "status"]):
        if f"run.dir={run_dir}" in (process.info["cmdline"] or ()) and process.info["status"] != psutil.STATUS_ZOMBIE:
            yield process


def end_all(run_dir: Path) -> None:
    """End what is left of an earlier soak that was killed."""
    for process in processes_of(run_dir):
        with suppress(psutil.Error):
            process.kill()
            process.wait(10)
