"""Importing Megatron-core without the compiler that it would load."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


@contextmanager
def light_import() -> Iterator[None]:
    """Import parts of Megatron-core in here, before anything else does.

    When imported it decorates activations, none of which is used here, with ``torch.compile``; that alone loads torch's
    compiler, a third of the time that a process takes to start. Within, ``torch.compile`` leaves functions as they are.
    Warnings that Transformer Engine and Apex are missing are not shown.
    """
    import torch

    with mock.patch.object(torch, "compile", _uncompiled), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _uncompiled(function: Callable | None = None, **_: Any) -> Callable:
    return function if function is not None else _uncompiled
