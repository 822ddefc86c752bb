"""Importing the package, or any module of it, changes nothing in the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

import unipool_dist as up

PROGRAM = """
import importlib, logging, os, pkgutil, signal, sys, threading, warnings

import unipool_dist

assert not {"torch", "numpy", "pydantic"} & set(sys.modules), "the package alone is light"
# What other packages do when they are imported is not ours: lm-eval, DeepSpeed and those that they load come first.
import setuptools, sympy, torch, torch.distributed.checkpoint
from unipool_dist.comm.megatron_import import without_trackers
with without_trackers():
    import deepspeed
try:
    import lm_eval.tasks
except ModuleNotFoundError:
    pass
missing = set()
try:
    from transformers import GenerationMixin, PreTrainedModel, cache_utils, initialization, masking_utils
    from transformers.integrations import use_experts_implementation
except ModuleNotFoundError:  # the file that transformers imports from an export is of no use without it
    missing = {"unipool_dist.checkpoint.huggingface.modeling_unipool"}


def state():
    return {
        "warning filters": list(warnings.filters),
        "environment": dict(os.environ),
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "hooks": (sys.excepthook, threading.excepthook, sys.displayhook, warnings.showwarning),
        "threads": threading.active_count(),
        "root logger": (logging.root.level, list(logging.root.handlers), list(logging.root.filters)),
        "torch": (
            torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
            torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(),
            torch.initial_seed(), torch.get_rng_state().tolist(),
        ),
        "functions": (torch.compile, torch.load, torch.save, torch.distributed.all_reduce, os.fork, open, print),
    }


before = state()
for module in pkgutil.walk_packages(unipool_dist.__path__, "unipool_dist."):
    if not module.name.endswith("__main__") and module.name not in missing:
        importlib.import_module(module.name)
        for name, value in state().items():
            assert value == before[name], f"{module.name} changes {name}: {before[name]} -> {value}"
"""


def test_importing_every_module_changes_nothing_in_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_public_names_are_there_when_they_are_asked_for() -> None:
    assert {"train", "load_config", "open_run", "build_model", "Callback"} <= set(dir(up))
    assert up.load_config(None, "train.steps=7").train.steps == 7
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        up.trian  # type: ignore[attr-defined]  # noqa: B018
