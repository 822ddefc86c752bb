"""Imports of Megatron-core: at first use, as they take seconds, and without its notices."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unipool_dist.topology.megatron_import import light_import


def import_megatron(module: str) -> Any:
    """Import ``megatron.core.<module>`` as :func:`light_import` does; return it."""
    with light_import():
        return importlib.import_module(f"megatron.core.{module}")


@contextmanager
def quiet_megatron() -> Iterator[None]:
    """Hold back what Megatron-core's datasets warn of and log below the level of an error."""
    logger = logging.getLogger("megatron.core.datasets")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
