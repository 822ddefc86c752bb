"""Parse untrusted YAML; the only place that does.

Text is plain data and nothing else. Size, depth and the expansion of aliases are bounded, so that no file of a kilobyte
fills the memory. A duplicate key is an error, as one value would be lost; no tag makes an object. Unquoted scalars are
what YAML 1.1 and 1.2 agree on. A number that YAML 1.1 would read differently (``0100`` as 64, ``1:40`` as 100) is
refused; ``on``, ``yes`` and dates are text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from unipool_dist.base.printable import short
from unipool_dist.base.reading import MAX_DEPTH, read_bytes

MAX_YAML_BYTES = 256 << 10
"""Configurations have a few thousand; this many take a second to parse."""
MAX_NODES = 20_000
"""Scalars, lists and mappings of a document, each counted as often as aliases repeat it."""
MAX_NUMBER_CHARS = 64

_CORE = "tag:yaml.org,2002:"
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL = {text: text.lower() == "true" for text in ("true", "True", "TRUE", "false", "False", "FALSE")}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)")
_HEX = re.compile(r"[-+]?0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"(?:[-+]?[0-9]+(?:_[0-9]+)*\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?")
_SPECIAL = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}
_OTHER_NUMBER = re.compile(  # what YAML 1.1 takes for a number and the patterns above do not
    r"""[-+]?0b[01_]+ | [-+]?0[0-7_]+ | [-+]?0x[0-9a-fA-F_]+ | [-+]?[1-9][0-9_]*
    | [-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)? | \.[0-9][0-9_]*(?:[eE][-+][0-9]+)?
    | [-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+ | [-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*""",
    re.VERBOSE,
)


class YamlError(ValueError):
    """A text is not YAML, or not the subset that this program accepts. The message is one line, safe to show."""


def read_yaml(path: Path) -> Any:
    """Parse a regular file of at most ``MAX_YAML_BYTES``; see :func:`parse_yaml`.

    Raises:
        OSError: it is missing or cannot be read.
        ValueError: it is not a regular file, too large, not UTF-8, or refused by :func:`parse_yaml`.
    """
    data = read_bytes(path, max_bytes=MAX_YAML_BYTES)
    try:
        return parse_yaml(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise YamlError(f"it is not UTF-8 text: {error.reason} at byte {error.start}") from None


def parse_yaml(text: str) -> Any:
    """Parse one YAML document into ``dict``, ``list``, ``str``, ``int``, ``float``, ``bool`` or ``None``.

    Nothing in the result is shared: an alias gives a separate copy.

    Raises:
        YamlError: it is not one YAML document, has a duplicate key, a tag that makes an object, or a number that YAML
            1.1 and 1.2 read differently, or exceeds the bounds of this module.
    """
    if len(text) > MAX_YAML_BYTES:
        raise YamlError(f"it has more than {MAX_YAML_BYTES:,} characters")
    try:
        loader = _Composer(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        problem = short(error.problem or error.context)
        raise YamlError(problem + (_place(error.problem_mark) if error.problem_mark else "")) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # characters that YAML or Unicode does not have
        raise YamlError(short(" ".join(str(error).split()))) from None
    return None if node is None else _value(node)


class _Composer(yaml.SafeLoader):
    """A composer of nodes that keeps the bounds; values are made by :func:`_value`."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._composed = 0
        self._measured: dict[int, tuple[int, int]] = {}
        """Nodes and levels of each node with its aliases expanded. The nodes are alive, in the document."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if self._depth > MAX_DEPTH:
            raise _refused(f"it is nested more than {MAX_DEPTH} deep", event)
        self._composed += 1
        if self._composed > MAX_NODES:
            raise _refused(f"it has more than {MAX_NODES:,} values", event)
        if isinstance(event, yaml.AliasEvent):
            node = self.anchors.get(event.anchor)
            if node is not None and id(node) not in self._measured:
                raise _refused(f"*{event.anchor} is inside the node that it refers to", event)
        elif event.tag is not None:
            tag = event.tag.replace(_CORE, "!!")
            raise _refused(f"the tag {tag} is not taken; write the value without it", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and id(node) not in self._measured:
            self._measured[id(node)] = self._measure(node)
        return node

    def _measure(self, node: yaml.Node) -> tuple[int, int]:
        parts = node.value if isinstance(node, yaml.SequenceNode) else ()
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        measured = [self._measured[id(part)] for part in parts]
        count = 1 + sum(part[0] for part in measured)
        depth = 1 + max((part[1] for part in measured), default=0)
        if count > MAX_NODES:
            raise _refused(f"it has more than {MAX_NODES:,} values, those that aliases repeat included", node)
        if depth > MAX_DEPTH + 1:
            raise _refused(f"with its aliases it is nested more than {MAX_DEPTH} deep", node)
        return count, depth


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item) for item in node.value]
    assert isinstance(node, yaml.MappingNode)
    return _mapping(node)


def _mapping(node: yaml.MappingNode) -> dict[Any, Any]:
    values: dict[Any, Any] = {}
    lines: dict[Hashable, int] = {}
    merged: list[dict[Any, Any]] = []
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise YamlError(f"a list or mapping cannot be a key{_place(key_node.start_mark)}")
        key = _scalar(key_node)
        for seen in {key, key_node.value}:
            if seen in lines:
                line = key_node.start_mark.line + 1
                raise YamlError(
                    f"{short(key_node.value)} is there twice, in lines {lines[seen]} and {line}; remove one of them"
                )
        lines.update(dict.fromkeys((key, key_node.value), key_node.start_mark.line + 1))
        if key == "<<" and key_node.style is None:
            merged += _merged(value_node)
        else:
            values[key] = _value(value_node)
    for under in merged:
        for key, value in under.items():
            values.setdefault(key, value)
    return values


def _merged(node: yaml.Node) -> list[dict[Any, Any]]:
    """Return the mappings of a merge key, those that take precedence first."""
    merged = []
    for part in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        if not isinstance(part, yaml.MappingNode):
            raise YamlError(f"<< takes a mapping or a list of mappings{_place(node.start_mark)}")
        merged.append(_mapping(part))
    return merged


def _scalar(node: yaml.ScalarNode) -> Any:
    text = node.value
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise YamlError(f"half of a surrogate pair is not a character{_place(node.start_mark)}") from None
    return _plain(node) if node.style is None else text


def _plain(node: yaml.ScalarNode) -> Any:
    """Return the value of an unquoted scalar."""
    text = node.value
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if text.lower() in _SPECIAL:
        return _SPECIAL[text.lower()]
    if not _OTHER_NUMBER.fullmatch(text) and not _INT.fullmatch(text):
        return text
    if len(text) > MAX_NUMBER_CHARS:
        raise YamlError(f"a number of more than {MAX_NUMBER_CHARS} characters{_place(node.start_mark)}")
    if _INT.fullmatch(text):
        return int(text)
    if _HEX.fullmatch(text):
        return int(text, 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    raise YamlError(
        f"{text} is another number in YAML 1.1 than it looks like{_place(node.start_mark)}; write it in decimal, or in "
        f"quotes if it is text"
    )


def _refused(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


def _place(mark: Any) -> str:
    return f" in line {mark.line + 1}, column {mark.column + 1}"
