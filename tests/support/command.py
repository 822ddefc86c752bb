"""The command line, called in this process as its entry point is: what it prints, and the status it ends with."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from unipool_dist.cli import main


@dataclass(frozen=True)
class Ended:
    """How a command has ended."""

    status: int
    out: str
    err: str


class Command:
    """Calls ``unipool-dist`` in this process. An exception that it lets through, which users see as a traceback, comes
    out of the call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Ended:
        self._monkeypatch.setattr(sys, "argv", ["unipool-dist", *map(str, arguments)])
        self._capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        out, err = self._capsys.readouterr()
        return Ended(status, out, err)
