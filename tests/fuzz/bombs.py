"""Small texts that cost a careless reader everything: depth, references that multiply, cycles, digits, lengths."""

from __future__ import annotations

import random
from collections.abc import Callable


def _laughs(levels: int) -> str:
    lists = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(["a0: &a0 [x, x, x]", *lists]) + "\n"


def _shared_maps(levels: int, indent: str) -> str:
    maps = [f"k{i}: &k{i} {{a: *k{i - 1}, b: *k{i - 1}, c: *k{i - 1}}}" for i in range(1, levels)]
    return "".join(f"{indent}{line}\n" for line in ["k0: &k0 {a: 1, b: 1}", *maps])


def _merges(levels: int) -> str:
    maps = [f"k{i}: &k{i} {{<<: [{', '.join([f'*k{i - 1}'] * 9)}]}}" for i in range(1, levels)]
    return "\n".join(["k0: &k0 {a: 1}", *maps]) + "\n"


_WEIGHTS = "data:\n  weights:\n"
_DEVICES = ("/dev/zero", "/dev/stdin", "/proc/self/mem", "/dev/null", ".")
_NO_NAMES = ('"a\\0b"', '"\\ud800"', "x/" * 4_000, "''", "3")
YAML_BOMBS: tuple[tuple[str, Callable[[random.Random], str]], ...] = (
    ("references of lists that multiply", lambda draw: _laughs(draw.randint(8, 40))),
    ("references of mappings that multiply", lambda draw: _WEIGHTS + _shared_maps(draw.randint(8, 60), "    ")),
    ("the same in a field", lambda draw: "model:\n  num_layers:\n" + _shared_maps(draw.randint(8, 60), "    ")),
    ("the same under an unknown key", lambda draw: "zzz:\n" + _shared_maps(draw.randint(8, 60), "  ")),
    ("merges that multiply", lambda draw: _merges(draw.randint(6, 30))),
    ("a mapping in itself", lambda draw: "data: {weights: &a {x: *a}}\n"),
    ("a list in itself", lambda draw: "data: {weights: &a [*a]}\n"),
    ("a section in itself", lambda draw: "model: &a {num_layers: *a}\n"),
    ("a document in itself", lambda draw: "&a\nmodel: *a\n"),
    ("a merge of itself", lambda draw: "model: &a {<<: *a}\n"),
    ("open brackets", lambda draw: "model: " + "[" * draw.randint(100, 20_000)),
    ("nested lists", lambda draw: "model: " + "[" * (depth := draw.randint(60, 5_000)) + "]" * depth),
    ("open braces", lambda draw: "model: " + "{a: " * draw.randint(100, 20_000)),
    ("nested mappings", lambda draw: "model: " + "{a: " * (depth := draw.randint(60, 3_000)) + "1" + "}" * depth),
    ("nested blocks", lambda draw: "".join(" " * i + "a:\n" for i in range(draw.randint(60, 2_000)))),
    ("nested dashes", lambda draw: "model:\n  " + "- " * draw.randint(60, 5_000) + "1\n"),
    ("nested keys", lambda draw: "? " * draw.randint(60, 5_000) + "a\n"),
    ("digits", lambda draw: "train: {steps: " + "9" * draw.randint(20, 20_000) + "}\n"),
    ("digits in hexadecimal", lambda draw: "train: {steps: 0x" + "f" * draw.randint(20, 20_000) + "}\n"),
    ("digits in a key", lambda draw: "9" * draw.randint(20, 20_000) + ": 1\n"),
    ("many unknown keys", lambda draw: "".join(f"k{i}: {i}\n" for i in range(draw.randint(1_000, 20_000)))),
    ("many names", lambda draw: _WEIGHTS + "".join(f"    k{i}: -1\n" for i in range(draw.randint(1_000, 20_000)))),
    ("a long key", lambda draw: "x" * draw.randint(1_000, 200_000) + ": 1\n"),
    ("a long value", lambda draw: "run: {dir: " + "x" * draw.randint(1_000, 200_000) + "}\n"),
    ("base of itself", lambda draw: "base: input.yaml\n"),
    ("base is a device", lambda draw: f"base: {draw.choice(_DEVICES)}\n"),
    ("base is no name", lambda draw: f"base: {draw.choice(_NO_NAMES)}\n"),
)

JSON_BOMBS: tuple[tuple[str, Callable[[random.Random], str]], ...] = (
    ("open brackets", lambda draw: "[" * draw.randint(100, 200_000)),
    ("open braces", lambda draw: '{"a":' * draw.randint(100, 100_000)),
    ("nested lists", lambda draw: "[" * (depth := draw.randint(70, 100_000)) + "]" * depth),
    ("digits", lambda draw: '{"step": ' + "9" * draw.randint(20, 20_000) + "}"),
    ("an exponent", lambda draw: '{"step": 1e' + "9" * draw.randint(3, 300) + "}"),
    (
        "no JSON",
        lambda draw: draw.choice(("", "null", "[]", "3", '"x"', "{", "{}", "NaN", "\x00", "\ufeff{}", "{'a': 1}")),
    ),
    ("no text", lambda draw: draw.randbytes(draw.randint(1, 400)).decode("latin-1")),
    ("many keys", lambda draw: "{" + ",".join(f'"k{i}": {i}' for i in range(draw.randint(1_000, 30_000))) + "}"),
    ("a long text", lambda draw: '{"' + "x" * draw.randint(10_000, 1_000_000) + '": 1}'),
)
