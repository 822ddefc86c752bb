"""Numbers on the command line: what is not finite, negative or absurdly large is wrong usage, for every command."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from tests.support.command import Command
from unipool_dist.cli import cli

NONSENSE = ("nan", "inf", "-inf", "-1e400", "1e400", "99999999999999999999", "9" * 5000, "0x10", "", "1_0e", "-5")


def _numeric(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Option]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _numeric(found, (*path, name))
        return
    for parameter in command.params:
        if isinstance(parameter, click.Option) and isinstance(
            parameter.type, click.types.IntParamType | click.types.FloatParamType
        ):
            yield path, parameter


def test_every_number_is_bounded() -> None:
    unbounded = []
    for path, option in _numeric(cli):
        with click.Context(click.Command("x")) as context:
            for text in ("nan", "inf", "1" + 400 * "0", "1e308"):
                try:
                    option.type.convert(text, option, context)
                except click.BadParameter:
                    continue
                unbounded.append((" ".join(path), option.opts[0], text))
    commands, texts = ("data prepare", "data adopt"), ("1" + 400 * "0", "1e308")
    known = {(command, "--validation-fraction", text) for command in commands for text in texts}
    assert set(unbounded) <= known, "checked where the corpus is prepared, all others here"


@pytest.mark.parametrize("value", NONSENSE)
@pytest.mark.parametrize("option", ["--temperature", "--top-p", "--seed", "--max-tokens", "--step", "--nproc"])
def test_nonsense_is_wrong_usage(unipool_dist: Command, option: str, value: str) -> None:
    ended = unipool_dist("generate", "run", "--prompt=x", f"{option}={value}")
    assert ended.status == 2 and f"Invalid value for '{option}'" in ended.err


def test_a_temperature_that_overflows_is_refused(unipool_dist: Command) -> None:
    ended = unipool_dist("generate", "run", "--prompt=x", "--temperature=1e-300")
    assert ended.status == 2 and "give 0" in ended.err


@pytest.mark.parametrize("value", ["9" * 5000, "0", "-1", "nan", "²", "\u0661"])
def test_sequences(unipool_dist: Command, value: str) -> None:
    ended = unipool_dist("eval", "run", f"--sequences={value}")
    assert ended.status == 2 and "--sequences" in ended.err


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "0", "1", "-0.1"])
def test_a_validation_fraction_outside_its_range(unipool_dist: Command, value: str) -> None:
    ended = unipool_dist("data", "prepare", "out", "--source=a=b", f"--validation-fraction={value}")
    assert ended.status in (1, 2) and "fraction" in ended.err
