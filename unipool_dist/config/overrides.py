"""``section.field=value`` on the command line: the text is read as the field's type asks, or refused.

Text is taken as typed, numbers are decimal even with leading zeros, and only what is neither (lists, mappings, null)
is read as YAML.
"""

from __future__ import annotations

import re
from typing import Any

from unipool_dist.base.printable import short
from unipool_dist.base.yaml_text import MAX_NUMBER_CHARS, parse_yaml
from unipool_dist.config.fields import branches, fields_of, mapping_values
from unipool_dist.config.roles import settings_of
from unipool_dist.config.sections import Config
from unipool_dist.errors import ConfigError

_WHOLE = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_CUT = re.compile(r"(?:^|\s)#|\n")
"""A comment, or a second line."""


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one field of ``values``, a configuration as a file has it, as ``override`` says.

    Raises:
        ConfigError: it is not of the form ``section.field=value``, its text means nothing for the field, or a part of
            its
            path is not a section.
    """
    name, separator, text = override.partition("=")
    if not separator or not _is_dotted(name):
        raise ConfigError(f"override {_shown(override)} is not of the form section.field=value, e.g. train.steps=200")
    if not text:
        raise ConfigError(f"override {_shown(override)} has no value; null means none")
    try:
        value = value_of(name, text)
    except ValueError as error:
        raise ConfigError(f"override {_shown(override)}: {error}") from None
    apply_field(values, name, value)


def apply_field(values: dict[str, Any], name: str, value: Any) -> None:
    """Set the field with the full name ``name`` to ``value``.

    Raises:
        ConfigError: a part of its path is not a section.
    """
    *path, last = name.split(".")
    node = values
    for key in path:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"{_shown(name)} cannot be set: {short(key)} is not a section")
    node[last] = value


def value_of(name: str, text: str) -> Any:
    """Return the value of ``text`` for the field ``name``; whether the field may have it is not yet checked.

    Raises:
        ValueError: it cannot be read as anything, or would not mean what it says.
    """
    kinds = branches(_annotation(name))
    if str in kinds:
        return _text(text, or_null=type(None) in kinds)
    if int in kinds and _WHOLE.fullmatch(text) and len(text) <= MAX_NUMBER_CHARS:
        return int(text)
    if float in kinds and _NUMBER.fullmatch(text) and len(text) <= MAX_NUMBER_CHARS:
        return int(text) if _WHOLE.fullmatch(text) else float(text)
    return _yaml(text)


def as_number(text: str) -> float | str:
    """Return the number that ``text`` writes, as in ``1e-3``, which YAML 1.1 takes for text; else ``text`` itself."""
    return float(text) if _NUMBER.fullmatch(text) and len(text) <= MAX_NUMBER_CHARS else text


def _is_dotted(name: str) -> bool:
    """Return whether ``name`` has the form of a field's, which are in sections but for a few."""
    keys = name.split(".")
    return all(keys) and (len(keys) > 1 or name in settings_of(Config))


def _annotation(name: str) -> Any:
    """Return the annotation of a field, or of the values of a mapping; ``None`` if there is no such field."""
    fields = dict(fields_of(Config))
    if name in fields:
        return fields[name].annotation
    above = fields.get(name.rpartition(".")[0])
    return None if above is None else mapping_values(above.annotation)


def _text(text: str, *, or_null: bool) -> str | None:
    """Return text as typed, without quotes around the whole, as YAML does."""
    if text == "null" and or_null:
        return None
    if text[0] in "'\"":
        if not _QUOTED.fullmatch(text):
            raise ValueError("quotes have to be around the whole value")
        return str(parse_yaml(text))
    if text[0] == "~":
        raise ValueError(
            "~ is the home directory only where a shell expands it, at the beginning of a word; write $HOME, or ./~ "
            "for something of that name"
        )
    return text


def _yaml(text: str) -> Any:
    if _CUT.search(_QUOTED.sub("", text)):
        raise ValueError("the value would end at the # or the end of the line; leave out what follows")
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"the value cannot be read as YAML: {error}") from None


def _shown(text: str) -> str:
    return repr(short(text, 100))
