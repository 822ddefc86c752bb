"""The fields of a configuration by name, and their allowed values, in words that a user knows from YAML."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, StringConstraints
from pydantic.fields import FieldInfo

from unipool_dist.base.user_code import PATTERN

_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_SPELLED = {"yes": True, "on": True, "no": False, "off": False}


def _spelled(value: Any) -> Any:
    return _SPELLED.get(value.lower(), value) if isinstance(value, str) else value


Flag = Annotated[bool, BeforeValidator(_spelled)]
"""A field that is true or false; ``yes``, ``no``, ``on`` and ``off`` are taken as YAML 1.1 has them."""


UserCode = Annotated[str, StringConstraints(pattern=f"^{PATTERN}$")]
"""A field that names a class or function of the user's own (:mod:`unipool_dist.base.user_code`)."""


def _step_range(text: str) -> str:
    step_range(text)
    return text


def step_range(text: str) -> tuple[int, int]:
    """Parse ``10-12``, or ``10``, as the first and the last step.

    Raises:
        ValueError: it is neither, or the last is before the first.
    """
    match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last:
        raise ValueError("give the first and the last step as 10-12")
    return first, last


StepRange = Annotated[str, AfterValidator(_step_range)]
"""A field with two steps, as :func:`step_range` takes them."""


def allowed(annotation: Any, limits: Iterable[Any] = ()) -> str:
    """Describe the values of a type within ``limits``, as YAML has them: ``a whole number >= 1``, ``norm or none``."""
    if annotation is UserCode:
        return "module:Class of your own"
    if annotation is StepRange:
        return "two steps, as 10-12"
    if hasattr(annotation, "__metadata__"):  # Annotated[type, Field(...), ...]
        inner = [limit for item in annotation.__metadata__ for limit in getattr(item, "metadata", [item])]
        return allowed(annotation.__origin__, inner)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _or([choice for argument in arguments for choice in _choices(argument)])
    if origin is Literal:
        return _or(_choices(annotation))
    if origin is dict:
        return f"a mapping whose values are each {allowed(arguments[1])}"
    if origin is list:
        return f"a list, each item {allowed(arguments[0])}"
    if is_section(annotation):
        fields = ", ".join(annotation.model_fields)
        if annotation.model_config.get("extra") == "allow":
            return f"a mapping with {fields} and other fields by their full names"
        return f"a section with the fields {fields}"
    names = {bool: "true or false", str: "text", int: "a whole number", float: "a number", types.NoneType: "null"}
    return names[annotation] + _range(limits)


def _choices(annotation: Any) -> list[str]:
    return (
        [str(value) for value in get_args(annotation)] if get_origin(annotation) is Literal else [allowed(annotation)]
    )


def branches(annotation: Any) -> list[Any]:
    """Return the types of a union, or the one type, without their limits."""
    if hasattr(annotation, "__metadata__"):
        return branches(annotation.__origin__)
    if get_origin(annotation) in (Union, types.UnionType):
        return [branch for argument in get_args(annotation) for branch in branches(argument)]
    return [annotation]


def mapping_values(annotation: Any) -> Any:
    """Return the annotation of the values if the field is a mapping (or null), else ``None``."""
    return next((get_args(branch)[1] for branch in branches(annotation) if get_origin(branch) is dict), None)


def is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    """Return whether the field is a section of its own."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def fields_of(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every section and field under ``schema`` with its full name, a section before its fields."""
    for name, field in schema.model_fields.items():
        yield f"{prefix}{name}", field
        if is_section(field.annotation):
            yield from fields_of(field.annotation, f"{prefix}{name}.")


def _range(limits: Iterable[Any]) -> str:
    bounds = {key: getattr(item, key) for item in limits for key in _SIGNS if hasattr(item, key)}
    if bounds.keys() == {"ge", "le"}:
        return f" from {_number(bounds['ge'])} to {_number(bounds['le'])}"
    return "".join(
        f"{' and' if index else ''} {_SIGNS[key]} {_number(bound)}" for index, (key, bound) in enumerate(bounds.items())
    )


def _number(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:,g}"


def _or(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"
