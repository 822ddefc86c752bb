"""``generate``: text appears as soon as its characters are complete, and the same on any layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.using import complete, refused
from unipool_dist.inference.text_stream import as_text


class Bytes:
    """A tokenizer whose tokens are the bytes of UTF-8."""

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")


def test_characters_appear_when_they_are_complete() -> None:
    pieces = list(as_text(Bytes(), list(b"a"), "bé€c".encode()))  # type: ignore[arg-type]
    assert pieces == ["b", "é", "€", "c", ""]


def test_what_never_becomes_a_character_appears_at_the_end_or_with_the_next() -> None:
    assert list(as_text(Bytes(), [], b"a\xc3")) == ["a", "\ufffd"]  # type: ignore[arg-type]
    assert list(as_text(Bytes(), [], b"\xc3a")) == ["\ufffda", ""]  # type: ignore[arg-type]


def test_a_prompt_that_ends_within_a_character_is_not_repeated() -> None:
    assert "".join(as_text(Bytes(), list("é".encode()[:1]), "é".encode()[1:])) in ("", "é")  # type: ignore[arg-type]


@pytest.mark.real_programs
def test_several_prompts_are_continued_without_the_corpus(small_run: Path, tiny_corpus: Path) -> None:
    options = ("--max-tokens=20", "--temperature=0", f"--tokenizer={tiny_corpus}", "data.path=/nowhere")
    prompts = ("--prompt=the quick brown", "--prompt=-", "--prompt=12+")
    said, _ = complete("generate", small_run, *prompts, *options, "--stop= ", "--top-k=5", stdin="the red\n")
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["prompt"] for line in lines] == ["the quick brown", "the red\n", "12+"]
    assert all(set(line) == {"prompt", "text"} and " " not in line["text"] for line in lines)
    assert any(line["text"] for line in lines)


@pytest.mark.real_programs
def test_the_command_continues_a_text_on_any_layout(small_run: Path) -> None:
    options = ("--prompt=-", "--max-tokens=20", "--temperature=0")
    said, _ = complete("generate", small_run, *options, stdin="the quick brown")
    assert said.endswith("\n") and len(said.strip()) > 5
    assert complete("generate", small_run, *options, "--nproc=2", "parallel.pp=2", stdin="the quick brown")[0] == said
    assert complete("generate", small_run, "--prompt=the quick brown", *options[1:])[0] == said


def test_options_out_of_range_are_refused(small_run: Path) -> None:
    for option, value in (("--temperature", -1), ("--top-p", 0), ("--top-p", 1.1), ("--max-tokens", 0), ("--top-k", 0)):
        assert f"Invalid value for '{option}'" in refused("generate", small_run, "--prompt=x", option, value)
    assert "Missing option '--prompt'" in refused("generate", small_run)
