"""The runs that are killed, of two processes and of four, on a tiny corpus; and their ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.running import Run, one_thread
from tests.support.runs import train_command, write_sources

MARK = "UNIPOOL_DIST_SOAK"
"""Variable of the environment that all processes of a run inherit, whatever they make of their command line."""


@dataclass(frozen=True)
class Victim:
    """A run that is killed again and again."""

    num_ranks: int
    folder: Path
    steps: int
    interval: int

    @property
    def run_dir(self) -> Path:
        return self.folder / f"run-{self.num_ranks}"

    @property
    def reference(self) -> Path:
        """Run directory of the same run, never interrupted."""
        return self.folder / f"uninterrupted-{self.num_ranks}"

    @property
    def temporary(self) -> Path:
        """Its temporary folder."""
        return self.folder / f"tmp-{self.num_ranks}"

    def start(self, corpus: Path) -> Run:
        """Go on with it."""
        self.temporary.mkdir(exist_ok=True)
        variables = {MARK: str(self.run_dir), "TMPDIR": str(self.temporary)}
        return Run(self._command(corpus, self.run_dir, "--resume"), self.run_dir, self.folder / "run.log", variables)

    def train_uninterrupted(self, corpus: Path) -> None:
        command = self._command(corpus, self.reference, "--overwrite")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=one_thread())

    def processes(self) -> list[psutil.Process]:
        """Those of the run that are there, whoever started them."""
        return list(_processes_of(self.run_dir))

    def end_all(self) -> None:
        """End what is left of an earlier soak that was killed."""
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
                process.wait(10)

    def left_behind(self) -> list[str]:
        """What is in the temporary folder, but for the cache that torch keeps there for each user."""
        return sorted(name for name in os.listdir(self.temporary) if not name.startswith("torchinductor_"))

    def _command(self, corpus: Path, run_dir: Path, flag: str) -> list[str]:
        layout = ["parallel.pp=2", f"parallel.dp={self.num_ranks // 2}", f"pool.parallel_size={self.num_ranks}"]
        settings = [f"train.steps={self.steps}", f"checkpoint.interval={self.interval}", "log.interval=1"]
        cheap = ["train.eval_sequences=0", "log.tensorboard=false"]
        return train_command(corpus, run_dir, self.num_ranks, flag, *layout, *settings, *cheap)


def prepared_corpus(folder: Path) -> Path:
    """Made if it is not there."""
    corpus = folder / "corpus"
    if not (corpus / "manifest.json").exists():
        sources = [f"--source={name}={path}" for name, path in write_sources(folder).items()]
        command = [sys.executable, "-m", "unipool_dist", "data", "prepare", str(corpus), *sources]
        subprocess.run([*command, "--vocab-size", "320"], check=True, stdout=subprocess.DEVNULL)
    return corpus


TARGETS = ("a rank", "a rank", "rank 0", "launcher", "launcher and a rank", "all")


def kill(run: Run, target: str, draw: random.Random) -> str:
    """SIGKILL to what ``target`` means, in any order and without a pause; while there is no rank, to the launcher.

    Returns:
        Who was killed.
    """
    ranks = run.ranks()
    chosen = {"rank 0": [0], "launcher": [], "all": sorted(ranks)}.get(target, [draw.choice(sorted(ranks) or [0])])
    victims = {f"rank {rank}": ranks[rank] for rank in chosen if rank in ranks}
    if target in ("launcher", "launcher and a rank", "all") or not victims:
        victims["launcher"] = run.process.pid
    for name in draw.sample(sorted(victims), len(victims)):
        with suppress(ProcessLookupError):
            os.kill(victims[name], signal.SIGKILL)
    return "all" if target == "all" and ranks else " and ".join(sorted(victims))


def _processes_of(run_dir: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            marked = process.environ().get(MARK) == str(run_dir) or f"run.dir={run_dir}" in process.cmdline()
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                yield process
