"""What kind a test is: found by what its code and its fixtures reach, so that no list has to be kept."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

KINDS = ("slurm", "namespace", "program", "ranks", "pure")
_FORKS = {"fork", "posix_spawn"}
_NAMESPACES = {"unshare", "netns", "nsenter"}


def kinds_of(item: pytest.Function) -> set[str]:
    """``ranks`` for a test that uses worker processes, ``program`` for one that starts others, ``namespace`` for one
    that makes namespaces of Linux for them, and ``slurm`` by its folder; ``pure`` for one that does nothing of it."""
    if item.nodeid.startswith("tests/slurm/"):
        return {"slurm"}
    found = set()
    functions = [item.function, *_fixtures_of(item)]
    if "workers" in item.fixturenames:
        found.add("ranks")
    if any(starts_programs(function) for function in functions):
        found.add("program")
        if any(_mentions(function, frozenset(_NAMESPACES)) for function in functions):
            found.add("namespace")
    return found or {"pure"}


def starts_programs(thing: Any) -> bool:
    """Whether a function or class of the tests, or anything of the tests that it names, starts processes."""
    return any(value is subprocess or name in _FORKS for name, value in _reached(thing))


def _fixtures_of(item: pytest.Function) -> list[Callable[..., Any]]:
    definitions = item._fixtureinfo.name2fixturedefs
    return [definitions[name][-1].func for name in item.fixturenames if name in definitions and name != "workers"]


def _mentions(thing: Any, words: frozenset[str]) -> bool:
    return any(words.intersection(str(name).split()) for name, _ in _reached(thing))


@cache
def _reached(thing: Any) -> tuple[tuple[str, Any], ...]:
    """Names and texts in its code, each with the module, function or class of the tests that it means, if it does."""
    found: list[tuple[str, Any]] = []
    seen, waiting = {id(thing)}, [thing]
    while waiting:
        function = waiting.pop()
        for code, variables in _code_of(function):
            for name in _names(code):
                value = variables.get(name)
                found.append((name, value if isinstance(value, ModuleType | FunctionType | type) else None))
                if _of_tests(value) and id(value) not in seen:
                    seen.add(id(value))
                    waiting.append(value)
    return tuple(found)


def _of_tests(value: Any) -> bool:
    return isinstance(value, FunctionType | type) and "/tests/" in getattr(
        (value if isinstance(value, FunctionType) else next(iter(_functions(value)), None)), "__code__", _NO_CODE
    ).co_filename.replace("\\", "/")


_NO_CODE = compile("", "none", "exec")


def _functions(thing: type) -> Iterator[FunctionType]:
    for value in vars(thing).values():
        inner = getattr(value, "fget", None) or getattr(value, "__func__", None) or value
        if isinstance(inner, FunctionType):
            yield inner


def _code_of(thing: Any) -> Iterator[tuple[CodeType, dict[str, Any]]]:
    functions = _functions(thing) if isinstance(thing, type) else [thing]
    for function in functions:
        function = getattr(function, "__wrapped__", function)
        if isinstance(function, FunctionType):
            yield function.__code__, function.__globals__


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
        elif isinstance(constant, str):
            yield constant
