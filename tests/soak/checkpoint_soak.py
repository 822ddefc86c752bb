"""``python -m tests.soak.checkpoint_soak``: one training run, killed again and again, must lose next to nothing.

A small run of four processes (two stages, two data-parallel ranks, one pool over all) saves every five steps. It is
killed with SIGKILL at random moments, a part of them while a checkpoint is being written, mostly one rank, sometimes
the launcher. After each kill: every checkpoint is whole, every byte of it; no more is lost than one interval and the
steps that ran while the last save was still being written. The next start must resume from exactly the newest
checkpoint. In the end the state equals, bit for bit, that of a run that was never interrupted.

Interrupted itself, it goes on where it was, unless started with ``--fresh``.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import click

from tests.soak.promises import Remains, ViolationError, check_equal, check_resumed, draft, require
from tests.soak.victim import command_of, end_all, kill_one, prepared_corpus, processes_of
from tests.support.running import Run, last_step, one_thread
from unipool_dist.checkpoint.directory import CheckpointDirectory

INTERVAL = 5
MOST_STEPS = 8
"""New steps after which a run is killed at the latest."""


@dataclass
class Kill:
    """One kill and what it cost."""

    moment: str
    victim: str
    during_save: bool
    new_steps: int
    last_step: int
    resume_from: int
    lost: int
    allowed: int
    start_s: float
    """From the start of this run to its first new step; 0 if it did not get there."""
    end_s: float
    """From the kill to the end of the last process."""


class Soak:
    """Keeps what has happened in ``folder``."""

    def __init__(self, folder: Path, num_kills: int, seed: int) -> None:
        self._folder, self._num_kills, self._seed = folder, num_kills, seed
        self._run_dir, self._record = folder / "run", folder / "kills.json"
        self._steps = MOST_STEPS * num_kills + INTERVAL
        self.kills = [Kill(**kill) for kill in json.loads(self._record.read_text())] if self._record.exists() else []

    def run(self) -> None:
        """Raises :class:`ViolationError` as soon as a promise is broken."""
        end_all(self._run_dir)
        corpus, reference = prepared_corpus(self._folder), self._folder / "uninterrupted"
        if self._steps not in CheckpointDirectory(reference).steps():
            command = command_of(corpus, reference, "--overwrite", self._steps, INTERVAL)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=one_thread())
        if self.kills:
            click.echo(f"going on after {len(self.kills)} kills")
        while len(self.kills) < self._num_kills:
            kill = self._kill_once(corpus, random.Random(f"{self._seed} {len(self.kills)}"))
            self.kills.append(kill)
            new_record = self._record.with_suffix(".new")
            new_record.write_text(json.dumps([asdict(kill) for kill in self.kills], indent=1))
            new_record.replace(self._record)
            click.echo(f"kill {len(self.kills):3}/{self._num_kills}: {_in_words(kill)}")
        newest = Remains(self._run_dir, INTERVAL).newest
        status, output = self._start(corpus).end(600)
        require(status == 0, f"the last run ended with {status}:\n{output}")
        check_resumed(output, newest)
        remains = Remains(self._run_dir, INTERVAL)
        require(
            remains.last_step == remains.newest == self._steps, f"the run did not end as it should: {vars(remains)}"
        )
        check_equal(*(CheckpointDirectory(run_dir).folder(self._steps) for run_dir in (self._run_dir, reference)))

    def _kill_once(self, corpus: Path, draw: random.Random) -> Kill:
        before = Remains(self._run_dir, INTERVAL)
        began, start_s = time.monotonic(), 0.0
        moment = draw.choice(["start", "step", "step", "save", "save"])
        run = self._start(corpus)
        try:
            if moment == "start":  # imports, process groups, loading
                time.sleep(draw.uniform(0, median([kill.start_s for kill in self.kills if kill.start_s] or [8.0])))
            else:
                self._until(run, lambda: "processes on cpu" in run.output())  # records of steps to be redone are gone
                self._until(run, lambda: last_step(self._run_dir) > before.newest)
                start_s = time.monotonic() - began
                if moment == "step":
                    target = before.newest + draw.randint(1, MOST_STEPS)
                    self._until(run, lambda: last_step(self._run_dir) >= target)
                    time.sleep(draw.uniform(0, 0.1))
                else:
                    self._until(run, lambda: draft(self._run_dir) is not None)
                    time.sleep(draw.uniform(0, 0.03))
            during_save = moment != "start" and draft(self._run_dir) is not None
            victim = kill_one(run, draw)
            killed = time.monotonic()
            with suppress(subprocess.TimeoutExpired):
                run.process.wait(60)
        finally:
            run.kill()
        self._until(None, lambda: not list(processes_of(self._run_dir)))
        end_s = time.monotonic() - killed
        check_resumed(run.output(), before.newest)
        after = Remains(self._run_dir, INTERVAL)
        new_steps = after.last_step - before.newest if "processes on cpu" in run.output() else 0
        during_save = during_save or (moment != "start" and after.draft is not None)
        return Kill(
            moment,
            victim,
            during_save,
            new_steps,
            after.last_step,
            after.newest,
            after.lost,
            after.allowed,
            start_s,
            end_s,
        )

    def _until(self, run: Run | None, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 120
        while not condition():
            require(run is None or run.process.poll() is None, f"the run ended by itself:\n{run and run.output()}")
            require(time.monotonic() < until, f"nothing happened for two minutes:\n{run and run.output()}")
            time.sleep(0.002 if run else 0.05)

    def _start(self, corpus: Path) -> Run:
        command = command_of(corpus, self._run_dir, "--resume", self._steps, INTERVAL)
        return Run(command, self._run_dir, self._folder / "run.log")


def _in_words(kill: Kill) -> str:
    saving = ", during a save" if kill.during_save else ""
    return (
        f"{kill.victim:8} at step {kill.last_step:4}, {kill.new_steps:2} new{saving}; resumes from {kill.resume_from}, "
        f"{kill.lost} of at most {kill.allowed} steps lost; ended in {kill.end_s:.1f} s"
    )


def _summary(kills: list[Kill]) -> str:
    trained = [kill for kill in kills if kill.new_steps]
    lost = Counter(kill.lost for kill in trained)
    starts, ends = [kill.start_s for kill in kills if kill.start_s] or [0.0], [kill.end_s for kill in kills]
    during_save = sum(kill.during_save for kill in kills)
    of_launcher = sum(kill.victim == "launcher" for kill in kills)
    return (
        f"{len(kills)} kills, {during_save} during a save, {len(kills) - len(trained)} before the first step, "
        f"{of_launcher} of the launcher\n"
        f"lost at most {max(lost, default=0)} steps, with {INTERVAL} between checkpoints; by steps lost: "
        f"{', '.join(f'{steps}: {lost[steps]}' for steps in sorted(lost))}\n"
        f"from start to first step {median(starts):.1f} s (at most {max(starts):.1f}); from kill to the end of all "
        f"processes {median(ends):.1f} s (at most {max(ends):.1f})\n"
        f"the final state is that of the uninterrupted run, bit for bit"
    )


@click.command(context_settings={"show_default": True})
@click.option("--kills", type=click.IntRange(min=1), default=50, help="how often the run is killed")
@click.option("--seed", default=0, help="of moments and victims")
@click.option("--folder", default="runs/soak", type=click.Path(path_type=Path), help="where everything is kept")
@click.option("--fresh", is_flag=True, help="begin anew")
def main(kills: int, seed: int, folder: Path, fresh: bool) -> None:
    """Kill a training run again and again; exit status 1 if a promise is broken."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the run is ended too
    if fresh:
        end_all(folder.absolute() / "run")
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    soak = Soak(folder.absolute(), kills, seed)
    try:
        soak.run()
    except ViolationError as violation:
        click.echo(f"broken: {violation}", err=True)
        sys.exit(1)
    click.echo(_summary(soak.kills))


if __name__ == "__main__":
    main()
