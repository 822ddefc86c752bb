"""The door to Megatron-core: imported when first needed, as it takes seconds, and without its notices."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unipool_dist.topology.megatron_import import light_import


def import_megatron(module: str) -> Any:
    """The module ``megatron.core.<module>``, imported lightly."""
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
