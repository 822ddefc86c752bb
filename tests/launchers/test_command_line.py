"""The command line itself: there at once, without importing torch; it lists commands as they describe themselves."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import click
import pytest

from unipool_dist.cli import COMMANDS, cli

PROGRAM = """
import sys
from unipool_dist.cli import main
try:
    main()
finally:
    print("torch" in sys.modules)
"""


def test_each_command_is_listed_with_the_beginning_of_its_help() -> None:
    context = click.Context(cli)
    assert cli.list_commands(context) == sorted(COMMANDS)
    for name, (_, text) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None and command.help is not None
        assert command.help.split()[:3] == text.split()[:3]
    assert cli.get_command(context, "drive") is None


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["submit", "--help"]], ids=" ".join)
def test_neither_help_nor_the_start_of_training_imports_torch(arguments: list[str]) -> None:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("Usage:") and done.stdout.endswith("False\n")


def test_versions_are_shown_without_importing_what_has_them() -> None:
    command = [sys.executable, "-c", PROGRAM, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[-1] == ["False"]
    assert [name for name, _ in lines[:-1]] == [
        "unipool-dist",
        "python",
        "torch",
        "megatron-core",
        "deepspeed",
        "numpy",
    ]
    assert lines[2] == ["torch", importlib.metadata.version("torch")]
