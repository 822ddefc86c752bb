"""Trying inputs, several at a time, and what has come of each."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from tests.fuzz.forked import Outcome, call
from tests.fuzz.inputs import InputClass, Material, drawn
from tests.fuzz.material import command_line
from tests.fuzz.place import Place
from tests.fuzz.verdict import faults
from unipool_dist.base.printable import printable


@dataclass(frozen=True)
class Tried:
    """One input, and what is wrong with how it was taken; nothing, if all is well."""

    kind: str
    number: int
    what: str
    faults: list[str]
    accepted: bool
    seconds: float
    peak_bytes: int


class Campaign:
    """Inputs of several classes from one seed; works in ``root``."""

    def __init__(self, classes: Sequence[InputClass], seed: int, material: Material, root: Path) -> None:
        self._classes, self._seed, self._material, self._root = classes, seed, material, root

    def run(self, share: float, jobs: int) -> list[Tried]:
        """Try that share of all classes, ``jobs`` inputs at a time, each in its own process of a process."""
        numbers = [(each, number) for each in self._classes for number in range(max(round(each.count * share), 1))]
        records = [self._root / f"tried-{job}.jsonl" for job in range(jobs)]
        workers = [self._worker(numbers[job::jobs], record) for job, record in enumerate(records)]
        statuses = [os.waitpid(worker, 0)[1] for worker in workers]
        if any(statuses):
            raise RuntimeError("the fuzzer itself has failed; see above")
        return [Tried(**json.loads(line)) for record in records for line in record.read_text().splitlines()]

    def show(self, numbers: Sequence[int]) -> list[Tried]:
        """Try the inputs of these numbers of each class, and show what they say."""
        place = Place(self._root / "place")
        return [self._try(each, number, place, show=True) for each in self._classes for number in numbers]

    def _worker(self, numbers: Iterable[tuple[InputClass, int]], record: Path) -> int:
        sys.stdout.flush()
        process = os.fork()
        if process:
            return process
        try:
            place = Place(record.with_suffix(""))
            with record.open("w") as file:
                for each, number in numbers:
                    tried = self._try(each, number, place)
                    file.write(json.dumps(asdict(tried)) + "\n")
                    if tried.faults:
                        click.echo(f"{each.name} {number}: {tried.what}: {'; '.join(tried.faults)}")
                        sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _try(self, each: InputClass, number: int, place: Place, *, show: bool = False) -> Tried:
        place.clear()
        os.environ["PATH"] = f"{place.folder / 'bin'}{os.pathsep}{os.defpath}"  # for those that bring programs
        made = each.make(drawn(each.name, self._seed, number), number, place, self._material)
        outcomes: list[Outcome] = []
        found: list[str] = []
        for arguments in made.commands:
            outcomes.append(call(lambda arguments=arguments: command_line(*arguments), place))  # type: ignore[misc]
            found += [f"{_command(arguments)}: {fault}" for fault in faults(outcomes[-1], may_read=made.may_read)]
            if show:
                click.echo(printable(f"$ unipool-dist {' '.join(arguments)}"))
                click.echo(printable(_said(outcomes[-1]), lines=True))
        accepted = all(outcome.status == 0 for outcome in outcomes)
        found += made.check(outcomes) if not found else []
        found += ["a valid input was refused"] if made.valid and not accepted else []
        found += place.faults()
        return Tried(
            each.name,
            number,
            printable(made.what),
            [printable(fault) for fault in dict.fromkeys(found)],
            accepted,
            sum(outcome.wall_s for outcome in outcomes),
            max((outcome.peak_bytes for outcome in outcomes), default=0),
        )


def _command(arguments: Sequence[str]) -> str:
    return " ".join(arguments[:2] if arguments[0] in ("checkpoint", "data") else arguments[:1])


def _said(outcome: Outcome) -> str:
    return (outcome.stdout + outcome.stderr).decode(errors="backslashreplace") + (
        f"-> {outcome.ended_by or outcome.status}, {outcome.wall_s:.2f} s, {outcome.peak_bytes >> 20} MiB"
    )
