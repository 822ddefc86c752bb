"""Expert-parallel training of UniPool models: one pool of experts, owned across all pipeline stages.

The public names, from :mod:`unipool_dist.api`, are imported when they are first used. Importing this package imports
nothing else, and changes nothing in the process.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unipool_dist.api import (
        Callback,
        Config,
        Sampling,
        Sink,
        Stop,
        build_model,
        load_config,
        open_run,
        stop,
        train,
    )

__all__ = ["Callback", "Config", "Sampling", "Sink", "Stop", "build_model", "load_config", "open_run", "stop", "train"]

if not TYPE_CHECKING:  # a type checker would take any name for one that is there

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("unipool_dist.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
