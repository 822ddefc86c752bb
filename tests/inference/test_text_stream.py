"""Text ends before a stop string, wherever the borders of tokens are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise

import pytest

from unipool_dist.inference.text_stream import TextStream


class Pieces:
    """A tokenizer whose tokens are pieces of a text."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = pieces

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[number] for number in ids)


def streamed(pieces: Sequence[str], stops: Sequence[str]) -> tuple[list[str], bool]:
    """What comes piece by piece, until the stream has stopped, and whether it has."""
    stream, said = TextStream(Pieces(pieces), [], stops), []  # type: ignore[arg-type]
    for number in range(len(pieces)):
        said.append(stream.push(number))
        if stream.has_stopped:
            break
    return [*said, stream.finish()], stream.has_stopped


def cuts(text: str) -> list[list[str]]:
    """Every way to cut a text into pieces."""
    ways = []
    for count in range(len(text)):
        for places in combinations(range(1, len(text)), count):
            edges = (0, *places, len(text))
            ways.append([text[a:b] for a, b in pairwise(edges)])
    return ways


@pytest.mark.parametrize(
    ("text", "stops", "wanted"),
    [
        ("ab\n\ncd", ["\n\n"], "ab"),
        ("aab", ["ab"], "a"),
        ("xabcx", ["abc", "b"], "xa"),
        ("xabc", ["c", "bc"], "xa"),
        ("abab", ["abc", "bb"], "abab"),
        ("stop", ["stop"], ""),
        ("nosto", ["stop"], "nosto"),
        ("abc", [""], "abc"),
        ("abc", [], "abc"),
    ],
)
def test_any_tokens_give_the_same_text(text: str, stops: list[str], wanted: str) -> None:
    for pieces in cuts(text):
        said, stopped = streamed(pieces, stops)
        assert ("".join(said), stopped) == (wanted, wanted != text), pieces


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    assert streamed(["a", "b\n", "\nc", "d"], ["\n\n\n"])[0] == ["a", "b", "\n\nc", "d", ""]
    assert streamed(["a", "\n"], ["\n\n"])[0] == ["a", "", "\n"]


def test_the_prompt_is_not_searched() -> None:
    stream = TextStream(Pieces(["end", "x", "end"]), [0], ["end"])  # type: ignore[arg-type]
    assert (stream.push(1), stream.push(2), stream.has_stopped, stream.finish()) == ("x", "", True, "")
