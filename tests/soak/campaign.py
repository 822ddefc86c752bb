"""Killing runs at chosen moments, and looking after each kill whether the promises hold."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

import click

from tests.soak.kills import Kill, read, write
from tests.soak.promises import Remains, check_equal, check_resumed, draft, require
from tests.soak.victim import TARGETS, Victim, kill, prepared_corpus
from tests.support.running import Run, last_step
from unipool_dist.checkpoint.directory import CheckpointDirectory

INTERVAL = 5
MOST_STEPS = 8
"""New steps after which a run is killed at the latest."""
MOMENTS = ("start", "step", "step", "save", "save")
END_S = 60
"""After this long no process of a killed run may be left."""
_FOUR_RANKS = 5  # one kill of so many is of the run of four


class Soak:
    """Keeps what has happened in ``folder``."""

    def __init__(self, folder: Path, num_kills: int, seed: int) -> None:
        self._folder, self._num_kills, self._seed = folder, num_kills, seed
        self._record = folder / "kills.json"
        self.kills = read(self._record)
        of_four = num_kills // _FOUR_RANKS
        self._victims = {
            num_ranks: Victim(num_ranks, folder, MOST_STEPS * kills + INTERVAL, INTERVAL)
            for num_ranks, kills in ((2, num_kills - of_four), (4, of_four))
            if kills
        }

    def end_all(self) -> None:
        """End what is left of an earlier soak that was killed itself."""
        for victim in self._victims.values():
            victim.end_all()

    def run(self) -> None:
        """Raises :class:`~tests.soak.promises.ViolationError` as soon as a promise is broken."""
        self.end_all()
        corpus = prepared_corpus(self._folder)
        for victim in self._victims.values():
            if victim.steps not in CheckpointDirectory(victim.reference).steps():
                victim.train_uninterrupted(corpus)
        if self.kills:
            click.echo(f"continuing after {len(self.kills)} kills")
        while (done := len(self.kills)) < self._num_kills:
            victim = self._victims[4 if done % _FOUR_RANKS == _FOUR_RANKS - 1 else 2]
            self.kills.append(self._kill_once(victim, corpus, random.Random(f"{self._seed} {done}")))
            write(self._record, self.kills)
            click.echo(f"kill {done + 1:3}/{self._num_kills}: {self.kills[-1]}")
        for victim in self._victims.values():
            self._finish(victim, corpus)

    def _kill_once(self, victim: Victim, corpus: Path, draw: random.Random) -> Kill:
        before = Remains(victim.run_dir, INTERVAL)
        began, start_s = time.monotonic(), 0.0
        moment, target = draw.choice(MOMENTS), draw.choice(TARGETS)
        run = victim.start(corpus)
        try:
            if moment == "start":  # imports, process groups, loading
                time.sleep(draw.uniform(0, self._usual_start_s(victim.num_ranks)))
            else:
                start_s = self._train_until(run, victim, moment, before.newest, draw) - began
            during_save = moment != "start" and draft(victim.run_dir) is not None
            killed_who = kill(run, target, draw)
            killed = time.monotonic()
            _wait_for_the_end(run, victim)
            end_s = time.monotonic() - killed
        finally:
            run.kill()
            victim.end_all()
        left = victim.left_behind()
        allowed = int("launcher" in killed_who or killed_who == "all")  # whose files the next start removes
        require(len(left) <= allowed, f"left in the temporary folder by {killed_who}, killed: {', '.join(left)}")
        check_resumed(run.output(), before.newest)
        after = Remains(victim.run_dir, INTERVAL)
        return Kill(
            num_ranks=victim.num_ranks,
            moment=moment,
            victim=killed_who,
            during_save=during_save or (moment != "start" and after.draft is not None),
            new_steps=after.last_step - before.newest if "processes on cpu" in run.output() else 0,
            last_step=after.last_step,
            resume_from=after.newest,
            lost=after.lost,
            allowed=after.allowed,
            start_s=start_s,
            end_s=end_s,
            whole_s=time.monotonic() - began,
        )

    def _train_until(self, run: Run, victim: Victim, moment: str, newest: int, draw: random.Random) -> float:
        """Until the moment to kill; returns when the first new step was done."""
        _until(run, lambda: "processes on cpu" in run.output())  # records of steps to be redone are gone
        _until(run, lambda: last_step(victim.run_dir) > newest)
        first = time.monotonic()
        if moment == "step":
            target = newest + draw.randint(1, MOST_STEPS)
            _until(run, lambda: last_step(victim.run_dir) >= target)
            time.sleep(draw.uniform(0, 0.1))
        else:
            _until(run, lambda: draft(victim.run_dir) is not None)
            time.sleep(draw.uniform(0, 0.03))
        return first

    def _usual_start_s(self, num_ranks: int) -> float:
        starts = [kill.start_s for kill in self.kills if kill.start_s and kill.num_ranks == num_ranks]
        return median(starts or [8.0])

    def _finish(self, victim: Victim, corpus: Path) -> None:
        """Let the run come to its end, and compare."""
        newest = Remains(victim.run_dir, INTERVAL).newest
        status, output = victim.start(corpus).end(600)
        require(status == 0, f"the last run ended with {status}:\n{output}")
        check_resumed(output, newest)
        remains = Remains(victim.run_dir, INTERVAL)
        left = victim.left_behind()
        require(not left, f"left in the temporary folder at the end: {', '.join(left)}")
        ended = remains.last_step == remains.newest == victim.steps
        require(ended, f"the run did not end as it should: {vars(remains)}")
        check_equal(*(CheckpointDirectory(path).folder(victim.steps) for path in (victim.run_dir, victim.reference)))


def _wait_for_the_end(run: Run, victim: Victim) -> None:
    """Until no process of the run is left.

    Raises:
        ViolationError: some are, after ``END_S`` seconds.
    """
    until = time.monotonic() + END_S
    while True:
        with suppress(subprocess.TimeoutExpired):
            run.process.wait(0.05)
        left = victim.processes()
        if not left and run.process.poll() is not None:
            return
        names = ", ".join(f"{process.pid}" for process in left)
        require(time.monotonic() < until, f"{END_S} s after the kill there are processes of the run: {names}")


def _until(run: Run, condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        require(run.process.poll() is None, f"the run ended by itself:\n{run.output()}")
        require(time.monotonic() < until, f"nothing happened for two minutes:\n{run.output()}")
        time.sleep(0.002)
