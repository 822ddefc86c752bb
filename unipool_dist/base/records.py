"""Dataclasses built from the values in a file, with every field's type checked."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


def record_of(kind: type[T], values: object) -> T:
    """Make a ``kind``, a dataclass, from ``values``.

    Raises:
        ValueError: ``values`` is not a dictionary, or a field is missing, unknown or of another type.
    """
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(values, dict) or not values.keys() <= names:
        raise ValueError(f"it is not a record with the fields {', '.join(sorted(names))}")
    made: T = _adapter(kind).validate_python(values)  # type: ignore[arg-type]
    return made  # errors of pydantic are ValueErrors


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
