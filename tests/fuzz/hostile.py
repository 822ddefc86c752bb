"""Values, names and bytes that programs stumble over, for all classes of inputs."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.fuzz.place import Place

NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 3, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**12, 10**15, 10**30, 10**300),
    *(0.5, -0.0, float("nan"), float("inf"), float("-inf"), 1e308, 5e-324, 1e15, 8.0, True, False),
)

TEXTS: tuple[str, ...] = (
    *(
        "",
        " ",
        "\n",
        "a b",
        "a\tb",
        "a\nb",
        "a\rb",
        "-",
        "--help",
        "-rf",
        ".",
        "..",
        "x" * 300,
        "x" * 5000,
        "8",
        "1e400",
    ),
    *("\x1b[2J\x1b]0;owned\x07", "\x07", "\x9b31m", "\u202eabc", "\u2028", "\U0001f600", "\udc80", "a\0b", "\ufeff"),
    *("%j%A%x", "{{ 7*7 }}", "{% raw %}", "%(x)s", "${PATH}", "$HOME", "~root", "*", "?", "\\", "!x", "#x", "&a", "*a"),
    *(
        "$\\frac{$",
        "$$",
        "<script>alert(1)</script>",
        "\"'><img src=x onerror=alert(1)>",
        "=1+1",
        "null",
        "nan",
        "auto",
    ),
    *(
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/mem",
        "/",
        "a/b",
        "./a",
        "a//b",
        "CON",
        "hf:",
        "file:///etc/passwd",
        "zip:::a",
    ),
)

_BREAKOUTS: tuple[str, ...] = (
    *(
        "$({})",
        "`{}`",
        "; {};",
        "&& {}",
        "| {}",
        "'; {}; '",
        '"; {}; "',
        "a\n{}\n",
        "a\r\n{}",
        "a\n#SBATCH --wrap='{}'",
    ),
    *(
        "$({}) #",
        "\\$({})",
        "${{IFS}}$({})",
        "a\n#\n{}",
        "x' '\n{}\n'",
        "__import__('os').system('{}')",
        "!!python/name:{}",
    ),
)


def breakouts(place: Place) -> list[str]:
    """Texts that make the canary where a shell, or Python, takes them for code."""
    commands = (place.payload, place.payload.replace(" ", "${IFS}"))
    return [form.format(command) for form in _BREAKOUTS for command in commands]


def ways_out(place: Place, name: str) -> list[str]:
    """Names that lead to the file ``name`` of the tree outside, from a folder of any depth."""
    outside = place.outside / name
    return [str(outside), *("../" * depth + f"outside/{name}" for depth in range(1, 6)), f"./../outside/{name}"]


def text(draw: random.Random, place: Place) -> str:
    """A hostile text of any kind."""
    return draw.choice(
        [
            draw.choice(TEXTS),
            draw.choice(TEXTS),
            draw.choice(breakouts(place)),
            draw.choice(ways_out(place, "thesis.tex")),
        ]
    )


def value(draw: random.Random, place: Place, depth: int = 3) -> Any:
    """Something that JSON and YAML can hold: a hostile number or text, null, or lists and mappings of these."""
    kind = draw.randrange(8 if depth else 5)
    if kind < 2:
        return draw.choice(NUMBERS)
    if kind < 4:
        return text(draw, place)
    if kind == 4:
        return None
    children = [value(draw, place, depth - 1) for _ in range(draw.randrange(4))]
    return children if kind < 7 else {text(draw, place): child for child in children}


def spoilt(draw: random.Random, tree: Any, place: Place) -> Any:
    """A copy of a tree of dictionaries and lists in which one node, at any depth, is lost, doubled or hostile."""
    if isinstance(tree, dict) and tree and draw.random() < 0.85:
        key = draw.choice(list(tree))
        copy = dict(tree)
        way = draw.random()
        if way < 0.08:
            del copy[key]
        elif way < 0.16:
            copy[text(draw, place)] = copy.pop(key)
        elif way < 0.24:
            copy[text(draw, place)] = copy[key]
        else:
            copy[key] = spoilt(draw, copy[key], place)
        return copy
    if isinstance(tree, list) and tree and draw.random() < 0.85:
        at = draw.randrange(len(tree))
        return [*tree[:at], spoilt(draw, tree[at], place), *tree[at + 1 :]]
    return value(draw, place)


def damaged(draw: random.Random, data: bytes) -> bytes:
    """A copy of ``data`` with bytes changed, lost, doubled or added, or the end or everything gone."""
    copy = bytearray(data)
    ways: list[Callable[[int], None]] = [
        lambda at: copy.__setitem__(at, draw.randrange(256)),
        lambda at: copy.__setitem__(at, copy[at] ^ 1 << draw.randrange(8)),
        lambda at: copy.__delitem__(slice(at, at + draw.randrange(1, 40))),
        lambda at: copy.__setitem__(slice(at, at), draw.randbytes(draw.randrange(1, 40))),
        lambda at: copy.__setitem__(slice(at, at), copy[at : at + draw.randrange(1, 200)]),
        lambda at: copy.__delitem__(slice(at, None)),
        lambda at: copy.__setitem__(slice(at, at + 8), draw.choice((b"\xff", b"\0", b"\x7f")) * 8),
    ]
    for _ in range(draw.choice((1, 1, 2, 5, 30))):
        if not copy:
            break
        draw.choice(ways)(draw.randrange(len(copy)))
    return bytes(copy)
