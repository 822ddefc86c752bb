"""YAML that nobody vouches for: what is read, and that all else is one kind of error, soon and in bounded memory."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from unipool_dist.base.printable import printable
from unipool_dist.base.reading import MAX_DEPTH, UnsafeFileError
from unipool_dist.base.yaml_text import MAX_NODES, MAX_YAML_BYTES, YamlError, parse_yaml, read_yaml

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False),
    st.text(),
    st.sampled_from(["0100", "1:40", "008", "on", "~", "<<", "=", "1_000", "2020-01-01", "1e-3", "a #2", "!!int 3"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)), max_leaves=20
)
LAUGHS = "k0: &k0 [a, a]\n" + "".join(f"k{i}: &k{i} [{','.join([f'*k{i - 1}'] * 9)}]\n" for i in range(1, 30))
MERGES = "k0: &k0 {a: 1}\n" + "".join(f"k{i}: &k{i} {{<<: [{','.join([f'*k{i - 1}'] * 9)}]}}\n" for i in range(1, 30))
STAIRS = "- &k0 [a]\n" + "".join(f"- &k{i} [*k{i - 1}]\n" for i in range(1, 100))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: [1, -2, 1_000, 0x1F, 0]", {"a": [1, -2, 1000, 31, 0]}),
        ("a: [1.5, 1., .5, 1.0e-3, 010.5]", {"a": [1.5, 1.0, 0.5, 1e-3, 10.5]}),
        ("[true, False, null, ~, ]", [True, False, None, None]),
        ("[on, Yes, no, off, 1e-3, 008, 2020-99-99, =]", ["on", "Yes", "no", "off", "1e-3", "008", "2020-99-99", "="]),
        ("['0100', \"1:40\", '1']", ["0100", "1:40", "1"]),
        ("a: &x {p: 1}\nb: *x\nc: {<<: *x, q: 2}", {"a": {"p": 1}, "b": {"p": 1}, "c": {"p": 1, "q": 2}}),
        ("{a: 1, <<: [{a: 2, b: 3}, {b: 4, c: 5}]}", {"a": 1, "b": 3, "c": 5}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
    ],
)
def test_plain_data_is_read(text: str, value: Any) -> None:
    assert parse_yaml(text) == value


def test_an_alias_is_a_copy() -> None:
    values = parse_yaml("a: &x {p: [1]}\nb: *x")
    values["a"]["p"].append(2)
    assert values["b"] == {"p": [1]}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("train: {a: 1}\nlog: {}\ntrain: {b: 2}", "train is there twice, in lines 1 and 3"),
        ("a:\n  b: 1\n  'b': 2", "b is there twice, in lines 2 and 3"),
        ("{<<: {a: 1}, <<: {b: 1}}", "<< is there twice"),
        ("1: a\n'1': b", "1 is there twice"),
        ("a: 0100", "0100 is another number in YAML 1.1 than it looks like in line 1"),
        ("a: -010", "another number"),
        ("a: 1:40", "another number"),
        ("a: 1:40.5", "another number"),
        ("a: 0b11", "another number"),
        ("a: 1__0", "another number"),
        ("a: 0_", "another number"),
        ("{0100: 1}", "another number"),
        ("a: " + "9" * 4301, "a number of more than 64 characters"),
        ("a: 0x" + "f" * 4301, "a number of more than 64 characters"),
        ("a: !!int abc", "the tag !!int is not taken"),
        ("a: !!bool abc", "the tag !!bool"),
        ("a: !!timestamp abc", "the tag !!timestamp"),
        ("a: !!python/object/apply:os.system [ls]", "the tag !!python/object/apply:os.system is not taken"),
        ("a: !x {}", "the tag !x"),
        ("data: {weights: &a {x: *a}}", "*a is inside the node that it refers to"),
        ("&a [*a]", "*a is inside"),
        ("&a {<<: *a}", "*a is inside"),
        ("*a", "undefined alias"),
        ("{<<: 3}", "<< takes a mapping"),
        ("? [1]\n: 2", "cannot be a key"),
        ('"\\ud800"', "half of a surrogate pair"),
        ("{a: 1", "line 1"),
        ("--- 1\n--- 2", "line 2"),
        ("\x1b[2J", "x001b"),
        ("%YAML 1." + "9" * 5000 + "\n---\na", ""),
        ('"\\UFFFFFFFF"', ""),
        ("a" * 300 + ": 1\n" + "a" * 300 + ": 2", "a... is there twice"),
    ],
)
def test_everything_else_is_one_error_in_one_line(text: str, part: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse_yaml(text)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        MERGES,
        STAIRS,
        "[" * 100_000,
        "- " * 100_000,
        "? " * 100_000,
        "{a: " * 50_000,
        "[" + "a," * 120_000 + "]",
        "".join(f"k{i}: {i}\n" for i in range(MAX_NODES)),
        "x: &x {a: 1}\ny: {<<: [" + "*x," * 80_000 + "]}",
        "a" * (MAX_YAML_BYTES + 1),
    ],
    ids=["laughs", "merges", "stairs", "lists", "dashes", "keys", "mappings", "wide", "many", "aliases", "long"],
)
def test_bombs_are_refused_soon_and_in_little_memory(text: str) -> None:
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(YamlError):
        parse_yaml(text)
    assert time.process_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_legal_depth_is_read() -> None:
    value = parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    for _ in range(MAX_DEPTH - 1):
        (value,) = value
    assert value == []


@settings(deadline=None, max_examples=200)
@given(VALUES)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value, sort_keys=False)) == value


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet=st.sampled_from("ab01_:.-+eExX ~#&*!|>%@`'\"\\[]{},?<=\n\tuU\x00\x1b\ud800é"), max_size=40))
def test_no_text_gives_another_error(text: str) -> None:
    message = ""
    try:
        parse_yaml(text)
    except YamlError as error:
        message = str(error)
    assert "\n" not in message and printable(message) == message


def test_files_are_regular_small_and_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: \xff")
    with pytest.raises(YamlError, match="not UTF-8"):
        read_yaml(path)
    path.write_bytes(b"#" * (MAX_YAML_BYTES + 1))
    with pytest.raises(UnsafeFileError):
        read_yaml(path)
    with pytest.raises(UnsafeFileError):
        read_yaml(Path("/dev/zero"))
