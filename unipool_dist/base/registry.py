"""Registries: the implementations that a field of the configuration may name, and a user's own as ``module:Name``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from unipool_dist.base.printable import printable
from unipool_dist.base.user_code import is_user_code, load_user_code
from unipool_dist.errors import ConfigError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """What one field of the configuration may name.

    ``REGISTRY[name]`` is the entry of that name. A name such as ``my_router:MyRouter`` is the attribute ``MyRouter`` of
    the user's module ``my_router``, which is imported then, if the user has consented
    (:func:`~unipool_dist.base.user_code.trust`). Iterating gives the names of the built-in entries.

    Args:
        field: the field, as error messages name it: ``pool.router``.
        entries: the built-in entries. Where importing one takes long, its ``module:Name``.
        base: if given, a user's entry must be a class derived from it.
    """

    def __init__(self, field: str, entries: Mapping[str, T | str], *, base: type | None = None) -> None:
        self.field, self._base = field, base
        self._entries = MappingProxyType(dict(entries))

    def __getitem__(self, name: str) -> T:
        """Return the entry ``name``.

        Raises:
            ConfigError: there is none, or the user's module cannot be found, is not trusted, or lacks the attribute.
        """
        if name in self._entries:
            entry: Any = self._entries[name]
            if isinstance(entry, str):
                module, _, attribute = entry.partition(":")
                entry = getattr(import_module(module), attribute)
            return entry
        if not is_user_code(name):
            raise ConfigError(
                f"{self.field}={printable(name)} is unknown; choose {', '.join(self._entries)}, or name a class of "
                f"your own as module:Class"
            )
        entry = load_user_code(self.field, name)
        if self._base is not None and not (isinstance(entry, type) and issubclass(entry, self._base)):
            raise ConfigError(
                f"{self.field}={name} must be a class derived from {self._base.__module__}:{self._base.__qualname__}"
            )
        if not callable(entry):
            raise ConfigError(f"{self.field}={name} must be a class or a function, not {type(entry).__name__}")
        return entry

    def __contains__(self, name: object) -> bool:
        """Tell whether ``name`` is that of a built-in entry."""
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
