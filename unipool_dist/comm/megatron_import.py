"""Import Megatron-core and DeepSpeed without the compiler and the experiment trackers that they would load."""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

_TRACKERS = ("wandb", "mlflow")


@contextmanager
def light_import() -> Iterator[None]:
    """Import parts of Megatron-core in the body, before anything else imports them.

    At import they decorate activations, though none are used here, with ``torch.compile``. That alone loads torch's
    compiler, a third of the start time of a process. In the body ``torch.compile`` returns functions unchanged.
    No experiment tracker is loaded either (:func:`without_trackers`).
    Warnings that Transformer Engine and Apex are missing are not shown.
    """
    import torch

    with mock.patch.object(torch, "compile", _uncompiled), warnings.catch_warnings(), without_trackers():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def without_trackers() -> Iterator[None]:
    """Hide Weights & Biases and MLflow from imports in the body.

    Megatron-core and DeepSpeed load them if they are installed, which takes seconds per process and is not needed here.
    Imports before and after are not affected.
    """
    hidden = [name for name in _TRACKERS if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # which makes its import an ImportError
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide in the body, as far as the user's own filters allow, that Megatron-core calls collectives by old names."""
    with warnings.catch_warnings():
        message = r"`torch\.distributed\.\w+` is deprecated"
        warnings.filterwarnings("ignore", message=message, category=FutureWarning, append=True)
        yield


def _uncompiled(function: Callable | None = None, **_: Any) -> Callable:
    return function if function is not None else _uncompiled


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
