"""A prompt on stdin is text of UTF-8, and ends."""

from __future__ import annotations

import io
import sys

import pytest

from unipool_dist.cli import generate
from unipool_dist.errors import UnipoolError


def _with_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> str:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    return generate._from_stdin()


def test_text_comes_as_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _with_stdin(monkeypatch, "café\r\n日本\n".encode()) == "café\n日本\n"


@pytest.mark.parametrize(("data", "at"), [(b"caf\xe9", 3), (b"\xff", 0), (b"a\xed\xa0\x80", 1), (b"ab\xc3", 2)])
def test_other_encodings_are_refused(monkeypatch: pytest.MonkeyPatch, data: bytes, at: int) -> None:
    with pytest.raises(UnipoolError, match=f"not UTF-8 .* at position {at}"):
        _with_stdin(monkeypatch, data)


def test_what_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_MAX_PROMPT_BYTES", 100)
    with pytest.raises(UnipoolError, match="more than 100 bytes"):
        _with_stdin(monkeypatch, b"x" * 1000)
