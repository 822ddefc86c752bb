"""The ``data`` commands: what they print, and that they pass their options on."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from unipool_dist.cli.data import data
from unipool_dist.errors import DataError


def test_prepare_then_show(sources: dict[str, str], tmp_path: Path) -> None:
    arguments = ["prepare", str(tmp_path / "out"), "--vocab-size", "380", "--validation-fraction", "0.1"]
    for name, location in sources.items():
        arguments += ["--source", f"{name}={location}"]
    first = CliRunner().invoke(data, arguments, catch_exceptions=False)
    assert first.output.startswith(f"{tmp_path}/out: prepared\n")
    again = CliRunner().invoke(data, arguments, catch_exceptions=False)
    assert again.output.startswith(f"{tmp_path}/out: already prepared\n")
    shown = CliRunner().invoke(data, ["show", str(tmp_path / "out"), "--verify", "hash"], catch_exceptions=False)
    table = first.output.split("\n", 1)[1]
    assert shown.output == again.output.split("\n", 1)[1] == table
    assert [line.split()[0] for line in table.splitlines()][:4] == ["domain", "alpha", "beta", "total"]
    assert "vocab_size 380" in table
    assert "validation_fraction=0.1" in table


@pytest.mark.parametrize(
    ("sources", "message"), [(["plain"], "not NAME=LOCATION"), (["a=x.txt", "a=y.txt"], "'a' twice")]
)
def test_malformed_sources_are_errors(sources: list[str], message: str, tmp_path: Path) -> None:
    arguments = ["prepare", str(tmp_path / "out")] + [part for source in sources for part in ("--source", source)]
    result = CliRunner().invoke(data, arguments)
    assert isinstance(result.exception, DataError)
    assert message in str(result.exception)
