"""An error that repeats what was read, or typed, is no longer than anybody reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import Command
from unipool_dist.base.printable import bounded

LONG = "x" * 100_000


@pytest.mark.parametrize(
    "arguments",
    [("checkpoint", "import", "exported", "run"), ("model", f"--{LONG}"), ("model", "c.yaml", f"{LONG}.y=1"), (LONG,)],
    ids=["an exported model", "an option", "an override", "a command"],
)
def test_an_error_is_cut(
    arguments: tuple[str, ...], tmp_path: Path, unipool_dist: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("exported").mkdir()
    Path("exported/export.json").write_text(json.dumps({LONG: 1, "format_version": 1}))
    Path("c.yaml").write_text("{}\n")
    ended = unipool_dist(*arguments)
    assert ended.status in (1, 2)
    assert 0 < len(ended.err) < 11_000


def test_what_is_short_stays() -> None:
    assert bounded("a\nb") == "a\nb"
    assert bounded("abcde", 3) == "abc... and 2 characters more"
