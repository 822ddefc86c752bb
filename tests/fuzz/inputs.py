"""What a class of inputs is: a name, how many there are to be, and how the input of a number is made."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.fuzz.forked import Outcome
from tests.fuzz.place import Place


@dataclass(frozen=True)
class Material:
    """Valid things, of which copies are spoilt."""

    corpus: Path
    run: Path
    exported: Path


def nothing_more(outcomes: Sequence[Outcome]) -> list[str]:
    """The check of inputs that need none of their own."""
    return []


@dataclass(frozen=True)
class Input:
    """Files that were made in ``place.folder``, and the commands to give them to, one after the other."""

    what: str
    """For people: what is wrong with it."""
    commands: Sequence[Sequence[str]]
    valid: bool = False
    """It is not hostile at all, and must be taken: else a class whose inputs are all refused would look well."""
    may_read: bool = False
    """It may name files anywhere, as a configuration may name its ``base``; they are read, and no more."""
    check: Callable[[Sequence[Outcome]], list[str]] = nothing_more
    """What else is wrong, once all commands have ended."""


class Make(Protocol):
    """Makes the input ``number`` of a class; the same for the same ``draw`` and number, but for the place's path."""

    def __call__(self, draw: random.Random, number: int, place: Place, material: Material) -> Input: ...


@dataclass(frozen=True)
class InputClass:
    """Inputs of one kind."""

    name: str
    count: int
    """Of a full run."""
    make: Make


def drawn(name: str, seed: int, number: int) -> random.Random:
    """Numbers for one input, whatever other inputs there are."""
    return random.Random(f"{name} {seed} {number}")
